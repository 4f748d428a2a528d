"""What trackers are told."""

from mnrl_job.config.settings import Settings
from mnrl_job.launch.run_identity import run_identity
from mnrl_job.tracking.tracked import tracked_run


def test_settings_are_told_by_the_names_people_set_and_without_secrets(tmp_path):
    settings = Settings(run_id="r", batch_size=8, train_data="faq=s3://key:hunter2hunter2@host/faq.jsonl")
    told = tracked_run(settings, tmp_path, tmp_path)
    assert told.id == "r"
    assert told.settings["MNRL_BATCH_SIZE"] == "8"
    assert told.settings["MNRL_TRAIN_DATA"] == "faq=s3://***@host/faq.jsonl"
    assert "MNRL_MAX_STEPS" not in told.settings, "it has no value"


def test_trackers_change_nothing_that_a_resumed_run_must_have_in_common():
    assert run_identity(Settings(report_to="wandb,mlflow"), {}) == run_identity(Settings(), {})
