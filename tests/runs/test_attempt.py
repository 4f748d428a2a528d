"""Which settings make another run, and which may change while one goes on."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.runs.attempt import common, hash_of


@pytest.mark.parametrize("changes", [{"export": ("onnx",)}, {"min_gain": 0.1}])
def test_what_comes_after_training_may_change_for_a_checkpoint_but_not_for_a_published_run(changes):
    before, after = Settings(), Settings(**changes)
    assert common(before, {}) == common(after, {})
    assert hash_of(before) != hash_of(after)


def test_what_training_depends_on_may_not_change():
    assert common(Settings(), {}) != common(Settings(seed=1), {})
    assert hash_of(Settings()) == hash_of(Settings(output="elsewhere"))


def test_how_the_nodes_find_and_trust_one_another_may_change():
    nodes = {"num_nodes": "2:4", "node_rank": 1, "master_addr": "a", "join_timeout": "5m", "group_secret": "words"}
    assert common(Settings(), {}) == common(Settings(**nodes), {})
    assert hash_of(Settings()) == hash_of(Settings(**nodes))
