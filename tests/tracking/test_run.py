"""What is reported to trackers."""

from mnrl_job.config.settings import Settings
from mnrl_job.launch.run_identity import run_identity
from mnrl_job.tracking.run import tracked_run


def test_settings_are_reported_by_environment_variable_and_without_secrets(tmp_path):
    settings = Settings(run_id="r", batch_size=8, train_data="faq=s3://key:hunter2hunter2@host/faq.jsonl")
    run = tracked_run(settings, tmp_path, tmp_path)
    assert run.id == "r"
    assert run.settings["MNRL_BATCH_SIZE"] == "8"
    assert run.settings["MNRL_TRAIN_DATA"] == "faq=s3://***@host/faq.jsonl"
    assert "MNRL_MAX_STEPS" not in run.settings, "it has no value"


def test_trackers_are_not_part_of_the_settings_hash():
    assert run_identity(Settings(report_to="wandb,mlflow"), {}) == run_identity(Settings(), {})
