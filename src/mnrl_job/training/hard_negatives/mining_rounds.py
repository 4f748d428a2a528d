"""The mined negatives of a training: mined when due, looked up by row, saved in checkpoints."""

import time
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.batching.planning import Plan
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.data.tables import read_groups, read_negatives
from mnrl_job.embedding.embedding_files import computed_once
from mnrl_job.embedding.precision import Precision
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.logs import log, warn
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.training.hard_negatives.mining import NO_ROW, Candidates, MiningConfig, find_candidates, mine
from mnrl_job.training.inputs import TrainingData
from mnrl_job.training.results import MiningRound

NEGATIVES_FILE, ROUNDS_FILE = "hard_negatives.npy", "mining_rounds.json"
# Below this fraction of the wanted negatives, warn.
MIN_FOUND = 0.9


class HardNegatives:
    """The current negatives of each row, the rounds in which they were mined, and the seconds that this attempt took.

    The plan has row numbers, shape (steps, batch size). A resumed run finds the files of its checkpoint in `folder`, on
    this machine.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        config: MiningConfig,
        precision: Precision,
        data: TrainingData,
        plan: Plan,
        folder: Path,
    ) -> None:
        self.seconds = 0.0
        self._model = model
        self._config = config
        self._precision = precision
        self._data = data
        self._plan = plan
        self._folder = folder
        self._groups = read_groups(data.batch_plan.labels)
        self.rounds: tuple[MiningRound, ...] = ()
        self._rows = np.full((data.pairs.rows, config.num_negatives), NO_ROW, dtype=np.int32)
        PartialState().wait_for_everyone()  # the first worker of this machine copies them from the checkpoint
        if (folder / ROUNDS_FILE).exists():
            self.rounds = read_record(folder / ROUNDS_FILE, tuple[MiningRound, ...])
            self._rows = np.load(folder / NEGATIVES_FILE)

    @cached_property
    def _candidates(self) -> Candidates:
        """Found only if a round is due, which may not be the case in a resumed run. Collective."""
        batch_plan, rows = self._data.batch_plan, self._data.pairs.rows
        found = None
        if is_local_main_process():
            non_minable = np.load(batch_plan.non_minable) if batch_plan.non_minable else np.zeros(rows, dtype=bool)
            negatives, planned = read_negatives(batch_plan.labels), distinct_dense(self._plan)
            found = find_candidates(self._groups, negatives, non_minable, planned)
        names, folder = [field.name for field in fields(Candidates)], self._folder / "mining" / "candidates"
        return Candidates(*(computed_once(folder / f"{name}.npy", partial(getattr, found, name)) for name in names))

    def due(self, epoch: int) -> bool:
        """Whether negatives have still to be mined for this epoch, counted from 0."""
        return len(self.rounds) <= (epoch if self._config.every_epoch else 0)

    def mine(self, step: int) -> None:
        """Mine with the weights of this step. Collective."""
        started = time.monotonic()
        enter_phase(Phase.MINE)
        pairs, candidates = self._data.pairs, self._candidates
        result = mine(self._model, pairs, candidates, self._config, self._precision, self._folder / "mining")
        wanted = len(candidates.rows) * self._config.num_negatives
        seconds = time.monotonic() - started
        mining_round = MiningRound(
            step=step,
            found=float((result.rows != NO_ROW).sum() / max(1, wanted)),
            similarity=result.similarity,
            positive_similarity=result.positive_similarity,
            seconds=round(seconds, 3),
        )
        self._rows = result.rows
        self.rounds = (*self.rounds, mining_round)
        self.seconds += seconds
        self._log(mining_round)
        if is_local_main_process():
            np.save(self._folder / NEGATIVES_FILE, self._rows)
            write_record(self._folder / ROUNDS_FILE, self.rounds)

    def of_rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Number of negatives of each row, the rows whose positives they are, and their groups."""
        negatives = self._rows[rows]
        valid = negatives != NO_ROW
        sources = negatives[valid].astype(np.int64)
        return valid.sum(axis=1), sources, self._groups[sources, 1]

    def _log(self, mining_round: MiningRound) -> None:
        found = mining_round["found"]
        message = (
            f"mined {self._config.num_negatives} hard negatives per pair: mean similarity to the query "
            f"{mining_round['similarity']:.3f}, of the positive {mining_round['positive_similarity']:.3f}"
        )
        if found < MIN_FOUND:
            warn(
                f"{message}; only {found:.0%} of the negatives were found, since too few documents score below the "
                "positive; lower MNRL_NUM_HARD_NEGATIVES or MNRL_HARD_NEGATIVE_RELATIVE_MARGIN, or widen "
                "MNRL_HARD_NEGATIVE_RANGE"
            )
        else:
            log(f"{message}; {found:.1%} found")
