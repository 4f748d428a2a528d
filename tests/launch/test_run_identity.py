"""Which settings and inputs make another run, and which may change between attempts."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.launch.run_identity import Difference, RunIdentity, run_identity


def resume_identity(settings):
    return run_identity(settings, {}).for_resume()


def settings_hash(settings):
    return run_identity(settings, {}).settings_hash


@pytest.mark.parametrize("changes", [{"weight_interpolation": 0.5}, {"min_gain": 0.1}, {"max_guard_loss": 0.1}])
def test_post_training_settings_may_change_for_a_checkpoint_but_not_for_a_published_run(changes):
    before = Settings(weight_interpolation="off")
    after = before.model_copy(update=changes)
    assert resume_identity(before) == resume_identity(after)
    assert settings_hash(before) != settings_hash(after)


def test_settings_that_change_the_training_may_not_change():
    assert resume_identity(Settings()) != resume_identity(Settings(seed=1))
    assert settings_hash(Settings()) == settings_hash(Settings(output="elsewhere"))


def test_a_fraction_may_not_replace_auto_which_keeps_pairs_from_training():
    difference = resume_identity(Settings()).find_difference(resume_identity(Settings(weight_interpolation=0.5)))
    assert difference == Difference("settings", "weight_interpolation", "auto", "a number")


def test_how_nodes_find_and_authenticate_each_other_may_change():
    nodes = {"num_nodes": "2:4", "node_rank": 1, "master_addr": "a", "join_timeout": "5m", "group_secret": "words"}
    assert resume_identity(Settings()) == resume_identity(Settings(**nodes))
    assert settings_hash(Settings()) == settings_hash(Settings(**nodes))


@pytest.mark.parametrize(
    ("settings", "inputs", "difference"),
    [
        ({"seed": 1}, {"train/faq": "abc", "batches": "plan"}, None),
        ({"seed": 2}, {"train/faq": "abd", "batches": "plan"}, Difference("settings", "seed", 1, 2)),
        ({"seed": 1}, {"train/faq": "abd", "batches": "other"}, Difference("inputs", "train/faq", "abc", "abd")),
        ({"seed": 1}, {"train/faq": "abc", "batches": "other"}, Difference("inputs", "batches", "plan", "other")),
        ({"seed": 1}, {"batches": "plan"}, Difference("inputs", "train/faq", "abc", None)),
        ({"seed": 1, "epochs": 2}, {"train/faq": "abc"}, Difference("settings", "epochs", None, 2)),
    ],
    ids=["none", "settings first", "inputs before the plan", "plan", "missing input", "additional setting"],
)
def test_the_first_difference_is_found_with_both_values(settings, inputs, difference):
    identity = RunIdentity({"seed": 1}, {"train/faq": "abc", "batches": "plan"})
    assert identity.find_difference(RunIdentity(settings, inputs)) == difference
