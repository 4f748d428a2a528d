"""The batch plan as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How rows become batches: `labels`, an Arrow file with the groups of each row, and `plan`, a `.npy` of rows.

    Each of `epochs` begins at this step, counted from 0. `barred`, a `.npy`, tells of each row whether its positive is
    relevant to a query of an eval set, and so must not be mined as a negative.
    """

    labels: Path
    plan: Path
    mode: Literal["planned", "masked"]
    steps: int
    epochs: tuple[int, ...] = (0,)
    barred: Path | None = None
