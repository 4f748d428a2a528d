"""The task file through which the supervisor hands a worker its settings."""

from pydantic import SecretStr

from mnrl_job.config.reader import read_settings
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import read_record, write_record

ENVIRON = {
    "MNRL_TRAIN_DATA": "faq:3=faq.jsonl,b/tickets.csv",
    "MNRL_EVAL_DATA": "dev=dev.json",
    "MNRL_OUTPUT": "out",
    "MNRL_ROW_FILTER": "label>=1 and split='1'",
    "MNRL_HARDNESS": "hard_negatives:5",
    "MNRL_HARD_NEGATIVE_RANGE": "11-15",
    "MNRL_MATRYOSHKA_DIMS": "64,32",
    "MNRL_CHECKPOINT_INTERVAL": "500",
    "MNRL_HANG_TIMEOUT": "90s",
    "MNRL_NUM_NODES": "2:4",
    "MNRL_QUERY_PROMPT": "query: ",
    "MNRL_NEAR_DUPLICATE_THRESHOLD": "off",
    "MNRL_GROUP_SECRET": "s3cret-words",
}


def test_a_worker_reads_the_settings_of_the_supervisor_and_no_secret_is_written(tmp_path):
    settings, _ = read_settings("train", {}, ENVIRON, {})
    path = tmp_path / "task.json"
    write_record(path, WorkerTask(settings, "model", tmp_path, tmp_path / "run", (), {"train/faq": "abc"}))
    assert "s3cret-words" not in path.read_text(encoding="utf-8")
    task = read_record(path, WorkerTask)
    masked = settings.model_copy(update={"group_secret": SecretStr("**********")})
    assert task == WorkerTask(masked, "model", tmp_path, tmp_path / "run", (), {"train/faq": "abc"})
