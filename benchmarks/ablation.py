"""One training with one thing off, in a process of its own; training.py calls it for each arm.

    python benchmarks/ablation.py ARM MODEL TRAIN EVAL

The last line that is printed is JSON. All arms have the same seed, and the same batches by our groups and plan, so they
differ in arithmetic alone.
"""

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from contestants import BATCH, CUT
from sentence_transformers import SentenceTransformer

from batching import ours, write_pairs
from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.config.settings import Settings
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.sources import LocalSource
from mnrl_job.embedding import chunks
from mnrl_job.embedding.chunks import Chunk, ChunkBudget
from mnrl_job.training import collator, step_context, trainer
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.train import train as train_model
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate

TEXTS_AT_ONCE = 16


def as_they_come(lengths: np.ndarray, *_: Any) -> list[Chunk]:
    """Sixteen texts at once in the order of the batch, padded to the longest of them."""
    rows = np.split(np.arange(len(lengths)), range(TEXTS_AT_ONCE, len(lengths), TEXTS_AT_ONCE))
    return [Chunk(some, int(lengths[some].max())) for some in rows]


def whole_columns(lengths: np.ndarray, *_: Any) -> list[Chunk]:
    """All anchors at once, then all positives, as the library does."""
    return [Chunk(some, int(lengths[some].max())) for some in np.split(np.arange(len(lengths)), 2)]


def token_budget(lengths: np.ndarray, budget: ChunkBudget, longest: int) -> list[Chunk]:
    """From long to short, as many texts in each chunk as its budget of tokens takes; no dynamic programming."""
    order = np.argsort(-lengths, kind="stable")
    widths = chunks.padded_widths(lengths[order], longest)
    sizes = chunks.chunk_sizes(min(budget.rows, len(order)))
    split, start = [], 0
    while start < len(order):
        fitting = (sizes * widths[start] <= budget.tokens) & (start + sizes <= len(order))
        size = int(sizes[fitting].max(initial=1))
        split.append(Chunk(order[start : start + size], int(widths[start])))
        start += size
    return split


# What is replaced once it is started, and environment variables that are set, in each arm.
ARMS: dict[str, tuple[list[Any], dict[str, str]]] = {
    "everything on": ([], {}),
    "fp32": ([], {}),
    "not in length order, 16 texts at once": ([mock.patch.object(collator, "chunk_by_length", as_they_come)], {}),
    "each column at once": ([mock.patch.object(collator, "chunk_by_length", whole_columns)], {}),
    "chunks filled up to the budget": ([mock.patch.object(collator, "chunk_by_length", token_budget)], {}),
    "every width and number of texts": (
        [
            mock.patch.object(chunks, "padded_widths", np.minimum),
            mock.patch.object(chunks, "chunk_sizes", lambda most: np.arange(1, most + 1)),
        ],
        {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"},
    ),
    "torch's dropout": ([mock.patch.object(step_context, "fast_dropout", nullcontext)], {}),
    "activations computed twice": ([mock.patch.object(trainer, "activation_token_budget", return_value=0)], {}),
}


def train(arm: str, model_path: str, train_data: Path, eval_data: Path) -> dict[str, Any]:
    patches, _ = ARMS[arm]
    settings = Settings(batch_size=BATCH, learning_rate=2e-5, precision="fp32" if arm == "fp32" else "auto")
    model = SentenceTransformer(model_path, device="cpu")
    model.max_seq_length = CUT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_pairs([(row["anchor"], row["positive"]) for _, row in read_rows(train_data)], folder)
        eval_set = read_evalset(LocalSource("eval", "eval", (), eval_data), folder / "eval")
        batch_plan = ours(pairs, settings.seed, folder)
        for patch in patches:
            patch.start()
        done = train_model(model, settings, TrainingData(pairs, batch_plan), AttemptFolders(folder, folder))
        mock.patch.stopall()
        scored = evaluate(model, eval_set, EvaluationOptions(done.precision, METRIC_CUTOFFS), folder / "after.jsonl")
    return {
        "pairs_per_second": round(done.steps * BATCH / done.seconds, 2),
        "padding_ratio": round(done.padded_tokens / done.tokens, 3),
        "ndcg@10_after": round(scored.metrics["ndcg@10"], 4),
        "final_loss": round(done.final_loss, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("model")
    parser.add_argument("train", type=Path)
    parser.add_argument("eval", type=Path)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(train(options.arm, options.model, options.train, options.eval)) + "\n")


if __name__ == "__main__":
    main()
