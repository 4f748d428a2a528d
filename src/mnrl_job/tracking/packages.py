"""Whether the packages of trackers are installed, and the warning about a tracker that fails."""

import importlib.metadata
from collections.abc import Iterator, Sequence

from mnrl_job.system.finding import Finding

# Distributions of each tracker; the last is the smallest one that suffices.
PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "mlflow-skinny")}
REMEDIES = {
    "tensorboard": "set TENSORBOARD_LOGGING_DIR to a writable folder, or unset it",
    "wandb": "set WANDB_API_KEY and check the connection to the server, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server that responds",
}
MAX_CHARACTERS = 300


def disabled_warning(name: str, cause: BaseException | str) -> str:
    """One line on a tracker that is disabled for the rest of the run: the cause and the remedy."""
    if isinstance(cause, ImportError):
        return f"MNRL_REPORT_TO: {name} is disabled: {cause}; {_install(name)}"
    text = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    line = " ".join(text.split())[:MAX_CHARACTERS].rstrip(".")
    return f"MNRL_REPORT_TO: {name} is disabled: {line}; {REMEDIES[name]}. The run continues"


def check_packages(names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        if version := _version(name):
            yield Finding(f"tracker {name}", "passed", f"{version} is installed")
        else:
            yield Finding(f"tracker {name}", "warning", "is not installed; runs will not report to it", _install(name))


def _version(name: str) -> str:
    for package in PACKAGES[name]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _install(name: str) -> str:
    return f"pip install {PACKAGES[name][-1]}"
