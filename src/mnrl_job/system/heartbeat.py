"""Signs of life: a worker writes down that it gets on, and with what; the supervisor reads that unasked.

What the supervisor does itself, such as reading and preparing, gives them the same way, to a listener.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnrl_job.system.json_text import dumps
from mnrl_job.system.record_files import write_text

Facts = dict[str, Any]

FILE = "MNRL_JOB_HEARTBEAT"
SECONDS_BETWEEN_WRITES = 0.5


@dataclass(slots=True)
class _Heart:
    """`facts` are numbers worth knowing about what was done so far, such as `step`, `total_steps` and `loss`."""

    doing: str = ""
    beats: int = 0
    facts: Facts = field(default_factory=dict)
    written: float = -math.inf
    listener: Callable[[Facts], None] | None = None


_heart = _Heart()


def enter_phase(doing: str, **facts: Any) -> None:
    """Say what this worker does from now on; written at once."""
    _heart.doing, _heart.written = doing, -math.inf
    beat(**facts)


def beat(**facts: Any) -> None:
    """Say that it gets on; cheap enough for every chunk of a batch. Facts stay until they are told anew."""
    _heart.beats += 1
    _heart.facts |= facts
    now = time.monotonic()
    if now - _heart.written < SECONDS_BETWEEN_WRITES:
        return
    _heart.written = now
    if path := os.environ.get(FILE):
        write_text(Path(path), dumps({"doing": _heart.doing, "beats": _heart.beats} | _heart.facts))
    if _heart.listener:
        _heart.listener(_heart.facts)


@contextmanager
def heartbeats_to(listener: Callable[[Facts], None]) -> Iterator[None]:
    """Inside, `listener` is given the facts whenever this process gets on, a few times a second at most."""
    _heart.listener, _heart.facts, _heart.written = listener, {}, -math.inf
    try:
        yield
    finally:
        _heart.listener = None


def last_heartbeat(path: Path) -> dict[str, Any]:
    """What a worker wrote down last: `doing`, `beats` and the facts; empty before its first sign of life."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {}
