"""The attempts at a run, a file each in the run's folder: when, how it ended, steps done and lost."""

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
# The outcome until another one is recorded; an attempt that never does was killed.
KILLED = "killed"


@dataclass(frozen=True, slots=True)
class AttemptState:
    """One attempt as its file holds it. `ended_at` of a killed one is its last update, to the minute.

    It trained from `first_step` to `last_step`. `seconds` until `ended_at` are of a monotonic clock.
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
    """Records this attempt and lists all, if this node `writes`. It never fails a run: errors of the store are ignored.

    `has_started`: whether this attempt was recorded at all.
    """

    def __init__(self, name: str, writes: bool = True) -> None:
        self.has_started = False
        self._writes = writes
        self._started = monotonic()
        self._state = AttemptState(name, timestamps.now(), timestamps.now())

    def update(self, store: Store, last_step: int = 0, **changes: Any) -> None:
        """Record changes of this attempt. `last_step` never decreases."""
        last_step = max(last_step, self._state.last_step)
        seconds = round(monotonic() - self._started, 3)
        self._state = replace(self._state, ended_at=timestamps.now(), last_step=last_step, seconds=seconds, **changes)
        self.has_started = True
        if self._writes:
            with suppress(JobError):
                store.write(f"{FOLDER}/{self._state.name}.json", dumps(asdict(self._state)).encode())

    def records(self, store: Store) -> list[dict[str, Any]]:
        """All attempts at this run in order, this one last, with the entries of `AttemptRecord`."""
        states = []
        with suppress(JobError):
            for entry in store.list_objects(f"{FOLDER}/"):
                with suppress(ValueError, TypeError):
                    states.append(AttemptState(**json.loads(read_bytes(store, entry.key) or b"")))
        others = [state for state in states if state.name != self._state.name]
        attempts = [*sorted(others, key=lambda state: state.started_at), self._state]
        next_steps = [state.first_step for state in attempts[1:]] + [self._state.last_step]
        return [_as_record(state, next_step) for state, next_step in zip(attempts, next_steps, strict=True)]


def _as_record(state: AttemptState, next_first_step: int) -> dict[str, Any]:
    # A killed attempt may not have recorded its last checkpoint, from which the next one resumed.
    last_step = max(state.last_step, next_first_step)
    done, lost = last_step - state.first_step, last_step - max(state.first_step, next_first_step)
    return asdict(state) | {"message": state.message or None, "steps_done": done, "steps_lost": lost}
