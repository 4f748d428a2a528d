"""Heartbeats: a worker writes its phase and progress to a file, which the supervisor reads.

In the supervisor itself, which reads and prepares the data, heartbeats go to a listener instead.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnrl_job.system.json_text import dumps
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import write_text

Facts = dict[str, Any]

FILE = "MNRL_JOB_HEARTBEAT"
STACKS = ".stacks"  # of a hung worker, beside it
SECONDS_BETWEEN_WRITES = 0.5


@dataclass(slots=True)
class _State:
    """`facts` are numbers about the progress so far, such as `step`, `total_steps` and `loss`."""

    phase: Phase = Phase.START
    heartbeats: int = 0
    facts: Facts = field(default_factory=dict)
    written: float = -math.inf
    listener: Callable[[Facts], None] | None = None


_state = _State()
# A worker downloads in the background while it trains.
_writing = threading.Lock()


def enter_phase(phase: Phase, **facts: Any) -> None:
    """Start another phase; written at once."""
    _state.phase, _state.written = phase, -math.inf
    heartbeat(**facts)


def heartbeat(**facts: Any) -> None:
    """Report progress; cheap enough for every chunk of a batch. Facts stay until they are overwritten."""
    _state.heartbeats += 1
    _state.facts |= facts
    with _writing:
        now = time.monotonic()
        if now - _state.written < SECONDS_BETWEEN_WRITES:
            return
        _state.written = now
        if path := os.environ.get(FILE):
            write_text(Path(path), dumps({"phase": _state.phase, "heartbeats": _state.heartbeats} | _state.facts))
    if _state.listener:
        _state.listener(_state.facts)


@contextmanager
def heartbeats_to(listener: Callable[[Facts], None]) -> Iterator[None]:
    """Call `listener` with the facts on heartbeats of this process, a few times a second at most."""
    _state.listener, _state.facts, _state.written = listener, {}, -math.inf
    try:
        yield
    finally:
        _state.listener = None


def last_heartbeat(path: Path) -> dict[str, Any]:
    """The last heartbeat of a worker: `phase`, `heartbeats` and the facts; empty before the first."""
    with suppress(OSError, ValueError):
        message: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return message
    return {}
