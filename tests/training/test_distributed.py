"""What ranks tell one another beside rows."""


def test_processors_of_ranks_with_gpus_have_a_group_and_a_patience_of_their_own(two_ranks):
    found = {"most": 1, "numbers": [[10, 0], [11, 1]], "all": True, "seconds": 77, "world": False}
    assert two_ranks.ask("hosts") == found
