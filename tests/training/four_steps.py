"""A training run of four steps in this process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.results import Training
from mnrl_job.training.train import train
from tests.examples import PAIRS

PLAN = np.arange(32).reshape(4, 8)
SETTINGS = Settings(batch_size=8, precision="fp32", learning_rate=1e-3)


@dataclass(frozen=True)
class FourSteps:
    """Thirty-two pairs and the plan of their batches, eight rows each."""

    folder: Path
    pairs: Pairs
    batch_plan: BatchPlan

    @property
    def data(self) -> TrainingData:
        return TrainingData(self.pairs, self.batch_plan)

    def __call__(self, model: Any, **changes: Any) -> tuple[Training, list[float]]:
        """Train a model. Returns what the trainer says of it, and the losses in its log."""
        settings = SETTINGS.model_copy(update=changes)
        trained = train(model, settings, self.data, AttemptFolders(self.folder, self.folder))
        log = (self.folder / "training_log.jsonl").read_text()
        return trained, [json.loads(line)["loss"] for line in log.splitlines()]


def four_steps(folder: Path) -> FourSteps:
    texts = [(f"{PAIRS[i % 8][0]} {'abcd'[i // 8]}", PAIRS[i % 8][1]) for i in range(32)]
    write_columns(folder / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(folder / "labels.arrow", np.stack([np.arange(32), 100 + np.arange(32) % 8], axis=1))
    np.save(folder / "plan.npy", PLAN)
    pairs = Pairs(folder / "pairs.arrow", ("anchor", "positive"), 32, 32, {}, (), ())
    return FourSteps(folder, pairs, BatchPlan(folder / "labels.arrow", folder / "plan.npy", len(PLAN)))
