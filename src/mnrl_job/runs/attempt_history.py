"""The attempts at a run, each in a file at the run's place: begun, ended, why, how far, what was lost."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

from typing_extensions import TypedDict

from mnrl_job.errors import JobError
from mnrl_job.storage import Store
from mnrl_job.storage.base import read_bytes
from mnrl_job.system import timestamps
from mnrl_job.system.json_text import dumps

FOLDER = "checkpoints/attempts"
# What an attempt says of itself until it can say more; if it never does, it was killed.
KILLED = "killed"


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One attempt. `ended_at` of one that was killed is the last moment it was heard of, to the minute.

    It trained from `first_step` to `last_step`. `seconds`, of a clock nobody can set, are those until `ended_at`.
    """

    name: str
    started_at: str
    ended_at: str
    outcome: str = KILLED
    message: str = ""
    first_step: int = 0
    last_step: int = 0
    seconds: float = 0.0


class AttemptRecord(TypedDict):
    """One attempt as `metrics.json` lists it; `outcome` is the class of its failure, `succeeded`, or `killed`."""

    started_at: str
    ended_at: str
    outcome: str
    message: str | None
    seconds: float
    steps_done: int
    steps_lost: int


class AttemptHistory:
    """Writes down how this attempt goes. It never stops a run: what cannot be written is let go.

    Attributes:
        begun: whether there is anything to tell of this attempt.

    Args:
        name: of this attempt.
        keeps: whether this node is the one that writes.
    """

    def __init__(self, name: str, keeps: bool = True) -> None:
        self.begun = False
        self._keeps = keeps
        self._began = monotonic()
        self._facts = AttemptEntry(name, timestamps.now(), timestamps.now())

    def write(self, store: Store, last_step: int = 0, **news: Any) -> None:
        """Add what is new, and keep all of it at the run's place. Who knows less of the steps takes none back."""
        reached = max(last_step, self._facts.last_step)
        seconds = round(monotonic() - self._began, 3)
        self._facts = replace(self._facts, ended_at=timestamps.now(), last_step=reached, seconds=seconds, **news)
        self.begun = True
        if not self._keeps:
            return
        with suppress(JobError):
            store.write(f"{FOLDER}/{self._facts.name}.json", dumps(asdict(self._facts)).encode())

    def all(self, store: Store) -> list[AttemptRecord]:
        """All attempts at this run in order, this one last, as `metrics.json` lists them."""
        others = []
        with suppress(JobError):
            for entry in store.list_objects(f"{FOLDER}/"):
                with suppress(ValueError, TypeError):
                    others.append(AttemptEntry(**json.loads(read_bytes(store, entry.key) or b"")))
        earlier = sorted((one for one in others if one.name != self._facts.name), key=lambda one: one.started_at)
        attempts = [*earlier, self._facts]
        nexts = [one.first_step for one in attempts[1:]] + [self._facts.last_step]
        return [_described(one, following) for one, following in zip(attempts, nexts, strict=True)]


def _described(one: AttemptEntry, next_began: int) -> AttemptRecord:
    reached = max(one.last_step, next_began)  # it may have been killed before it could tell of its last checkpoint
    return {
        "started_at": one.started_at,
        "ended_at": one.ended_at,
        "outcome": one.outcome,
        "message": one.message or None,
        "seconds": one.seconds,
        "steps_done": reached - one.first_step,
        "steps_lost": reached - max(one.first_step, next_began),
    }
