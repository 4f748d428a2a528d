"""A loss that went wrong: not a number, or worse than guessing after it had been better."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.tables import read_table, take
from mnrl_job.errors import Diverged
from mnrl_job.system.secrets import redact

# A single batch may be bad; so many on end are not.
WINDOW = 50
NAMED_ROWS = 5
LISTED_ROWS = 100
SHOWN_CHARACTERS = 60


class DivergenceMonitor:
    """Judges the losses of a run, step by step.

    A loss that is not finite ends the run at once. It has exploded where the mean over the last 50 steps is that of
    guessing, ln(candidates) for each term, or more, and twice that of the first 50 steps. A model whose embeddings have
    collapsed into one guesses, too.

    Args:
        pairs: the training pairs as an Arrow file, to name rows by their anchors.
        candidates: the documents that a query is compared with, on average.
        learning_rate: to say what to lower.
        terms: of so many losses theirs is the sum.
    """

    def __init__(self, pairs: Path, candidates: float, learning_rate: float, terms: int = 1) -> None:
        self._pairs = pairs
        self._guessing = 0.95 * terms * math.log(candidates)
        self._learning_rate = learning_rate
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def update(self, step: int, batches: Sequence[NDArray[np.int64]], losses: Sequence[float]) -> None:
        """Judge the steps up to `step`.

        Args:
            step: the number of the last of them.
            batches: their rows, each of shape (batch size,).
            losses: their losses.

        Raises:
            Diverged: naming the step and its rows.
        """
        began = step - len(losses) + 1
        for number, (rows, loss) in enumerate(zip(batches, losses, strict=True), began):
            if not math.isfinite(loss):
                raise self._diverged(f"became {loss}", number, rows)
            self._recent.append(loss)
            if len(self._first) < WINDOW:
                self._first.append(loss)
            elif _mean(self._recent) > max(self._guessing, 2 * _mean(self._first)):
                raise self._diverged(f"rose from {_mean(self._first):.2f} to {_mean(self._recent):.2f}", number, rows)

    def _diverged(self, what: str, step: int, rows: NDArray[np.int64]) -> Diverged:
        anchors = take(read_table(self._pairs)["anchor"], rows[:LISTED_ROWS]).to_pylist()
        named = ", ".join(repr(redact(anchor)[:SHOWN_CHARACTERS]) for anchor in anchors[:NAMED_ROWS])
        message = (
            f"the loss {what} at step {step}, whose {len(rows)} rows begin with the anchors {named}; lower "
            f"MNRL_LEARNING_RATE ({self._learning_rate:g}), or use MNRL_PRECISION=fp32"
        )
        return Diverged(message, {"step": step, "rows": anchors})


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
