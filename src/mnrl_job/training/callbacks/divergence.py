"""Detects a diverged loss: not finite, or worse than random scores after it had been better."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.tables import read_table, take
from mnrl_job.errors import Diverged
from mnrl_job.system.secrets import redact

# A single bad batch is not divergence.
WINDOW = 50
NAMED_ROWS = 5
LISTED_ROWS = 100
SHOWN_CHARACTERS = 60


class DivergenceMonitor:
    """Checks the losses of a run, step by step.

    A loss that is not finite ends the run at once. It has exploded if its mean over the last 50 steps is at least that
    of random scores, ln(documents) for each of the summed terms, and twice that of the first 50 steps. A query is
    compared with this many documents on average. Embeddings that have collapsed into one point give random scores too.
    """

    def __init__(self, pairs: Path, documents: float, learning_rate: float, terms: int = 1) -> None:
        self._pairs = pairs
        self._random_loss = 0.95 * terms * math.log(documents)
        self._learning_rate = learning_rate
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def update(self, step: int, batches: Sequence[NDArray[np.int64]], losses: Sequence[float]) -> None:
        """Check the steps up to `step`, by their rows, each of shape (batch size,), and losses.

        Raises:
            Diverged: with the step and its rows.
        """
        first = step - len(losses) + 1
        for number, (rows, loss) in enumerate(zip(batches, losses, strict=True), first):
            if not math.isfinite(loss):
                raise self._diverged(f"became {loss}", number, rows)
            self._recent.append(loss)
            if len(self._first) < WINDOW:
                self._first.append(loss)
            elif _mean(self._recent) > max(self._random_loss, 2 * _mean(self._first)):
                raise self._diverged(f"rose from {_mean(self._first):.2f} to {_mean(self._recent):.2f}", number, rows)

    def _diverged(self, change: str, step: int, rows: NDArray[np.int64]) -> Diverged:
        listed = rows[:LISTED_ROWS]
        anchors: list[str] = [f"row {row}" for row in listed]  # a run on prepared tokens may not have the texts
        if self._pairs.exists():
            anchors = take(read_table(self._pairs)["anchor"], listed).to_pylist()
        named = ", ".join(repr(redact(anchor)[:SHOWN_CHARACTERS]) for anchor in anchors[:NAMED_ROWS])
        message = (
            f"the loss {change} at step {step}; the first anchors of its {len(rows)} rows are {named}; lower "
            f"MNRL_LEARNING_RATE ({self._learning_rate:g}), or use MNRL_PRECISION=fp32"
        )
        return Diverged(message, {"step": step, "rows": anchors})


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
