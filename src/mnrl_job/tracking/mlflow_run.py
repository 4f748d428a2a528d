"""MLflow: the run is found again by a tag; its parameters are the settings, the page is an artifact."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow

from mnrl_job.tracking.tracked import TrackedRun, numbers, verdict

TAG = "mnrl_job.run_id"
# A server that does not answer is given up soon. The trainer's own arguments are left out: settings are the parameters.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_MAX_LOG_PARAMS": "0",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# The server takes 1,000 at once.
METRICS_AT_ONCE = 500


class MlflowRun:
    """A run in the experiment that `MLFLOW_EXPERIMENT_NAME` names, at `MLFLOW_TRACKING_URI`."""

    def begin(self, run: TrackedRun) -> str:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        # Taken away, or the trainer's callback would start that run a second time.
        known = os.environ.pop("MLFLOW_RUN_ID", None) or _made_before(run.id)
        self.is_new = known is None
        active = mlflow.start_run(run_id=known, run_name=run.id, tags={TAG: run.id})
        # A parameter cannot be changed, and between attempts the gate's settings may be.
        mlflow.log_params({name: text for name, text in run.settings.items() if name not in active.data.params})
        return f"run {active.info.run_id} at {mlflow.get_tracking_uri()}"

    def attach(self, content: Mapping[str, Any], page: Path) -> None:
        step = content["training"]["steps"] if content["training"] else 0
        metrics = [(name.replace("@", "_"), value) for name, value in numbers(content)]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            mlflow.log_metrics(dict(metrics[first : first + METRICS_AT_ONCE]), step=step)
        mlflow.set_tags({f"mnrl_job.{name}": text for name, text in verdict(content).items()})
        mlflow.log_artifact(str(page))

    def leave(self, passed: bool | None) -> None:
        if passed is not None:
            mlflow.end_run("FINISHED" if passed else "FAILED")


def _made_before(run_id: str) -> str | None:
    found = mlflow.search_runs(filter_string=f"tags.`{TAG}` = '{run_id}'", max_results=1, output_format="list")
    return found[0].info.run_id if found else None
