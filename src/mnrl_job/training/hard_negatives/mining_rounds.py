"""The mined negatives of a training: mined when they are due, looked up by row, carried along in checkpoints."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.batching.planning import Plan
from mnrl_job.config.settings import Settings
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_groups, read_negatives
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.logs import log, warn
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.training.hard_negatives.mining import NO_ROW, Texts, distinct, mine
from mnrl_job.training.results import Mining

ROWS, MININGS = "hard_negatives.npy", "minings.json"
# Below this share of the negatives that are wanted, the user should know.
WORTH_A_WARNING = 0.9


@dataclass(frozen=True, slots=True)
class Minings:
    """Those of a training, in order."""

    minings: tuple[Mining, ...]


class HardNegatives:
    """The negatives that each row has now, and how they came about.

    Attributes:
        minings: one for each time, first to last.
        seconds: spent on them by this attempt.

    Args:
        model: in training.
        settings: the run's.
        pairs: the training pairs.
        batching: has their groups.
        plan: row numbers, shape (steps, batch size).
        folder: of this machine, where a resumed run finds what its checkpoint brought.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        settings: Settings,
        pairs: Pairs,
        batching: BatchPlan,
        plan: Plan,
        folder: Path,
    ) -> None:
        self.seconds = 0.0
        self._model = model
        self._settings = settings
        self._pairs = pairs
        self._folder = folder
        self._groups, self._given = read_groups(batching.labels), read_negatives(batching.labels)
        self._barred = batching.barred
        self._plan = plan
        self.mining_rounds: tuple[Mining, ...] = ()
        self._rows = np.full((pairs.rows, settings.num_hard_negatives), NO_ROW, dtype=np.int32)
        PartialState().wait_for_everyone()  # the first of this machine puts them there
        if (folder / MININGS).exists():
            self.mining_rounds = read_record(folder / MININGS, Minings).minings
            self._rows = np.load(folder / ROWS)

    @cached_property
    def _texts(self) -> Texts:
        """Sorted out only where something is mined, which a resumed run may not need."""
        barred = np.load(self._barred) if self._barred else np.zeros(self._pairs.rows, dtype=bool)
        return distinct(self._groups, self._given, barred, distinct_dense(self._plan))

    def due(self, epoch: int) -> bool:
        """Whether this epoch, counted from 0, wants negatives that are not there yet."""
        return len(self.mining_rounds) <= (epoch if self._settings.mines_every_epoch else 0)

    def mine(self, step: int) -> None:
        """Mine with the weights of this step; every rank must ask."""
        began = time.monotonic()
        enter_phase(Phase.MINE)
        found = mine(self._model, self._pairs, self._texts, self._settings, self._folder / "mining")
        wanted = len(self._texts.rows) * self._settings.num_hard_negatives
        seconds = time.monotonic() - began
        mining = Mining(
            step=step,
            found=float((found.rows != NO_ROW).sum() / max(1, wanted)),
            similarity=found.similarity,
            positive_similarity=found.positive_similarity,
            seconds=round(seconds, 3),
        )
        self._rows = found.rows
        self.mining_rounds = (*self.mining_rounds, mining)
        self.seconds += seconds
        self._tell(mining)
        if is_local_main_process():
            np.save(self._folder / ROWS, self._rows)
            write_record(self._folder / MININGS, Minings(self.mining_rounds))

    def of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """How many were mined for each of some rows, the rows whose positives these are, and their groups."""
        found = self._rows[rows]
        mined = found != NO_ROW
        taken = found[mined].astype(np.int64)
        return mined.sum(axis=1), taken, self._groups[taken, 1]

    def _tell(self, mining: Mining) -> None:
        share = mining["found"]
        told = (
            f"mined {self._settings.num_hard_negatives} hard negatives for each pair: similarity to the query "
            f"{mining['similarity']:.3f} on average, that of the positive {mining['positive_similarity']:.3f}"
        )
        if share < WORTH_A_WARNING:
            warn(
                f"{told}; only {share:.0%} were found, since others are as near as the positive, or there are too few; "
                "lower MNRL_NUM_HARD_NEGATIVES or MNRL_HARD_NEGATIVE_RELATIVE_MARGIN, or widen MNRL_HARD_NEGATIVE_RANGE"
            )
        else:
            log(f"{told}; {share:.1%} were found")
