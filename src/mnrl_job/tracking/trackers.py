"""Adapters of TensorBoard, W&B and MLflow. Their packages are optional, so they are imported where they are used.

Each creates a run, or resumes that of an earlier attempt (unless `is_new`), and returns its location. Any method may
raise, or block forever. `finish(None)` leaves the run to another process.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

from mnrl_job.tracking.run import TrackedRun, outcome, scores

# WANDB_WATCH and WANDB_LOG_MODEL would make the callback of transformers hook into the model, or upload it.
WANDB_FIXED = {"WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false"}
WANDB_DEFAULTS = {
    "WANDB_PROJECT": "mnrl-job",
    "WANDB_RESUME": "allow",
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_ERROR_REPORTING": "false",
}
# MLFLOW_MAX_LOG_PARAMS leaves out the arguments of the trainer: the parameters are the settings.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_MAX_LOG_PARAMS": "0",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
MLFLOW_TAG = "mnrl_job.run_id"
MLFLOW_METRICS_PER_REQUEST = 500  # the server accepts 1,000


class TensorBoard:
    """Event files; the callback of transformers writes those of the training."""

    def start(self, run: TrackedRun) -> str:
        self._settings = run.settings
        self._folder = os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.staging / "tensorboard"))
        self.is_new = not any(Path(self._folder).glob("events.*"))
        return self._folder

    def log_results(self, metrics: Mapping[str, Any], page: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scores(metrics)]
        tables = {"results": outcome(metrics), "settings": self._settings}
        writer = EventFileWriter(self._folder)
        for summary in (Summary(value=values), *(text_pb(tag, _markdown(rows)) for tag, rows in tables.items())):
            writer.add_event(Event(wall_time=time.time(), step=_steps(metrics), summary=summary))
        writer.close()

    def finish(self, succeeded: bool | None) -> None:
        """Nothing to end."""


class Wandb:
    """A run whose id is the run id; offline a folder to sync later."""

    def start(self, run: TrackedRun) -> str:
        import wandb

        names = {"WANDB_RUN_ID": run.id, "WANDB_NAME": run.id, "WANDB_DIR": str(run.wandb_folder.parent)}
        caches = dict.fromkeys(("WANDB_CACHE_DIR", "WANDB_DATA_DIR"), str(run.scratch / "wandb-cache"))
        _set_defaults(WANDB_DEFAULTS | names | caches)
        os.environ.update(WANDB_FIXED)
        offline = (Path(os.environ["WANDB_DIR"]) / "wandb").glob(f"offline-run-*-{os.environ['WANDB_RUN_ID']}")
        exists = any(offline)
        self._run = wandb.init(config=run.settings)
        self.is_new = not exists and not self._run.resumed
        return self._run.url or "offline"

    def log_results(self, metrics: Mapping[str, Any], page: Path) -> None:
        self._run.summary.update(dict(scores(metrics)) | outcome(metrics))
        copy = copyfile(page, Path(self._run.dir) / page.name)
        self._run.save(str(copy), base_path=self._run.dir, policy="end")

    def finish(self, succeeded: bool | None) -> None:
        self._run.finish(exit_code=int(succeeded is False))


class Mlflow:
    """A run that is found again by a tag; the settings are its parameters."""

    def start(self, run: TrackedRun) -> str:
        _set_defaults(MLFLOW_DEFAULTS)
        import mlflow  # reads the defaults

        self._mlflow = mlflow
        # Removed from the environment, or the callback of transformers would start that run a second time.
        run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if run_id is None:
            query = f"tags.`{MLFLOW_TAG}` = '{run.id}'"
            found = mlflow.search_runs(filter_string=query, max_results=1, output_format="list")
            run_id = found[0].info.run_id if found else None
        self.is_new = run_id is None
        active = mlflow.start_run(run_id=run_id, run_name=run.id, tags={MLFLOW_TAG: run.id})
        # A parameter cannot be changed, but the settings of the gate may differ between attempts.
        mlflow.log_params({name: text for name, text in run.settings.items() if name not in active.data.params})
        return f"run {active.info.run_id} at {mlflow.get_tracking_uri()}"

    def log_results(self, metrics: Mapping[str, Any], page: Path) -> None:
        values = [(name.replace("@", "_"), value) for name, value in scores(metrics)]
        for first in range(0, len(values), MLFLOW_METRICS_PER_REQUEST):
            self._mlflow.log_metrics(dict(values[first : first + MLFLOW_METRICS_PER_REQUEST]), step=_steps(metrics))
        self._mlflow.set_tags({f"mnrl_job.{name}": text for name, text in outcome(metrics).items()})
        self._mlflow.log_artifact(str(page))

    def finish(self, succeeded: bool | None) -> None:
        if succeeded is not None:
            self._mlflow.end_run("FINISHED" if succeeded else "FAILED")


TRACKERS: dict[str, type[TensorBoard | Wandb | Mlflow]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}


def _set_defaults(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _steps(metrics: Mapping[str, Any]) -> int:
    return metrics["training"]["steps"] if metrics["training"] else 0


def _markdown(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
