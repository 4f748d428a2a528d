"""What trackers know of a run, and what each of them can do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mnrl_job.config.settings import Settings, as_typed, env_name
from mnrl_job.system.secrets import redact


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run, by its id. `settings` are those that have a value, by their names in the environment, without secrets.

    What is in `staging` will be published; what is in `scratch` is gone after the run.
    """

    id: str
    settings: dict[str, str]
    scratch: Path
    staging: Path

    def left_out_mark(self, tracker: str) -> Path:
        """The file that is there once this tracker is left out."""
        return self.scratch / f"{tracker}.left-out"

    @property
    def wandb_folder(self) -> Path:
        """Where W&B writes, unless `WANDB_DIR` says otherwise; it adds the last part of the path itself."""
        return self.scratch / "wandb"

    @property
    def tensorboard_folder(self) -> Path:
        """Where TensorBoard's files are written, unless `TENSORBOARD_LOGGING_DIR` says otherwise."""
        return self.staging / "tensorboard"


class Tracker(Protocol):
    """One run at a tracker. Any method may raise anything, or take forever.

    `is_new` says that nothing an earlier attempt told is there.
    """

    is_new: bool

    def begin(self, run: TrackedRun) -> str:
        """Make the run there, or find the one an earlier attempt made. Returns where to look."""

    def attach(self, content: Mapping[str, Any], page: Path) -> None:
        """Add the results: `content` is that of `metrics.json`, `page` is `report.html`."""

    def leave(self, passed: bool | None) -> None:
        """The run succeeded, or failed, or (None) another process goes on with it."""


def tracked_run(settings: Settings, scratch: Path, staging: Path) -> TrackedRun:
    """What trackers are told of a run; its settings name it."""
    texts = {env_name(field): redact(as_typed(getattr(settings, field))) for field in Settings.model_fields}
    return TrackedRun(settings.run_id, {name: text for name, text in texts.items() if text}, scratch, staging)


def numbers(content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each metric of each eval set as `before/NAME/METRIC`, also `after`, `delta` and `bm25`, where there is one."""
    for name, one in content["evaluation"].items():
        for moment in ("before", "after", "delta", "bm25"):
            for metric, value in (one[moment] or {}).items():
                yield f"{moment}/{name}/{metric}", float(value)


def verdict(content: Mapping[str, Any]) -> dict[str, str]:
    """What came of the run, in words."""
    gate = content["gate"]
    return {"status": content["status"], "gate": gate["rule"], "gate_failed": "; ".join(gate["failed"]) or "nothing"}
