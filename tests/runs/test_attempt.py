"""Which settings make another run, and which may change while one goes on."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.runs.attempt import hash_settings, resume_identity


@pytest.mark.parametrize("changes", [{"export": ("onnx",)}, {"min_gain": 0.1}])
def test_what_comes_after_training_may_change_for_a_checkpoint_but_not_for_a_published_run(changes):
    before, after = Settings(), Settings(**changes)
    assert resume_identity(before, {}) == resume_identity(after, {})
    assert hash_settings(before) != hash_settings(after)


def test_what_training_depends_on_may_not_change():
    assert resume_identity(Settings(), {}) != resume_identity(Settings(seed=1), {})
    assert hash_settings(Settings()) == hash_settings(Settings(output="elsewhere"))


def test_how_the_nodes_find_and_trust_one_another_may_change():
    nodes = {"num_nodes": "2:4", "node_rank": 1, "master_addr": "a", "join_timeout": "5m", "group_secret": "words"}
    assert resume_identity(Settings(), {}) == resume_identity(Settings(**nodes), {})
    assert hash_settings(Settings()) == hash_settings(Settings(**nodes))
