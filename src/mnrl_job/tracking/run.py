"""What is reported of a run to experiment trackers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.config.settings import Settings, as_text, env_name
from mnrl_job.system.secrets import redact


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run. `settings` are those with a value, by environment variable, without secrets.

    `staging` is published, `scratch` is removed after the run.
    """

    id: str
    settings: dict[str, str]
    scratch: Path
    staging: Path

    def disabled_marker(self, tracker: str) -> Path:
        """The file that exists once a tracker was disabled during training."""
        return self.scratch / f"{tracker}.disabled"

    @property
    def wandb_folder(self) -> Path:
        """Default folder of W&B, below `WANDB_DIR`."""
        return self.scratch / "wandb"


def tracked_run(settings: Settings, scratch: Path, staging: Path) -> TrackedRun:
    texts = {env_name(field): redact(as_text(getattr(settings, field))) for field in Settings.model_fields}
    return TrackedRun(settings.run_id, {name: text for name, text in texts.items() if text}, scratch, staging)


def scores(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each metric of each eval set as `before/NAME/METRIC`, likewise `after`, `delta` and `bm25`."""
    for name, evaluation in metrics["evaluation"].items():
        for stage in ("before", "after", "delta", "bm25"):
            for metric, value in (evaluation[stage] or {}).items():
                yield f"{stage}/{name}/{metric}", float(value)


def outcome(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Status and gate of the run."""
    gate = metrics["gate"]
    return {"status": metrics["status"], "gate": gate["rule"], "gate_failed": "; ".join(gate["failed"]) or "nothing"}
