"""Which trackers there are, whether they are installed, and what is said of one that does not work."""

import importlib.metadata
from collections.abc import Iterator, Sequence

from mnrl_job.system.finding import Finding
from mnrl_job.tracking.tracked import Tracker

# What pip calls each; MLflow's client by itself is enough.
PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "mlflow-skinny")}
HELP = {
    "tensorboard": "name a TENSORBOARD_LOGGING_DIR that can be written, or none",
    "wandb": "set WANDB_API_KEY and reach the server, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server that answers",
}
SHOWN_CHARACTERS = 300


def open_tracker(name: str) -> Tracker:
    """The tracker of this name.

    Raises:
        ImportError: its package is missing.
    """
    if name == "mlflow":
        from mnrl_job.tracking.mlflow_run import MlflowRun

        return MlflowRun()
    if name == "wandb":
        from mnrl_job.tracking.wandb_run import WandbRun

        return WandbRun()
    from mnrl_job.tracking.tensorboard_run import TensorboardRun

    return TensorboardRun()


def left_out(name: str, why: BaseException | str) -> str:
    """The one line about a tracker that is left out from now on: what is wrong, and what would help."""
    if isinstance(why, ImportError):
        return f"MNRL_REPORT_TO: {name} is left out: {why}; {_install(name)}"
    told = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
    line = " ".join(told.split())[:SHOWN_CHARACTERS].rstrip(".")
    return f"MNRL_REPORT_TO: {name} is left out from now on: {line}; {HELP[name]}. The run goes on"


def look_at(names: Sequence[str]) -> Iterator[Finding]:
    """Whether the packages of these trackers are installed."""
    for name in names:
        version = _version(name)
        if version:
            yield Finding(f"tracker {name}", "passed", f"{version} is installed")
        else:
            yield Finding(f"tracker {name}", "warning", "is not installed; a run would go without it", _install(name))


def _version(name: str) -> str:
    for package in PACKAGES[name]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _install(name: str) -> str:
    return f"pip install {PACKAGES[name][-1]}"
