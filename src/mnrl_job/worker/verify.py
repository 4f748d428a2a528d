"""Verifies a saved model: embeddings of fixed texts must equal those of the trained model in memory."""

import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.errors import Diverged, InternalError
from mnrl_job.system.json_text import dumps
from mnrl_job.worker.results import Verification

PROBES = (
    "How do I reset my password?",
    "the",
    "Error 0x80070057: the parameter is incorrect (line 12).",
    "Ein Satz auf Deutsch mit Umlauten: äöüß.",
    "日本語の短い文です。",
    "def search(query: str) -> list[str]: return []",
    "A longer passage. " * 60,
    "42",
)

# Both embed in fp32 on the same kind of device. Rounding in differently ordered sums makes a difference of a few times
# 1e-7 for unit-length vectors; a wrong, missing or truncated tensor one of 1e-2 and more.
TOLERANCE = 1e-4


def embed_probes(model: SentenceTransformer) -> torch.Tensor:
    """Unit-length fp32 embeddings of the fixed texts: without a prompt, as queries, and as documents.

    Shape (3 * texts, dimension).
    """
    encoders = (model.encode, model.encode_query, model.encode_document)
    embeddings = [encode(list(PROBES), convert_to_tensor=True, normalize_embeddings=True) for encode in encoders]
    return torch.cat(embeddings).float().cpu()


def record_probes(model: SentenceTransformer, path: Path) -> None:
    """Write the embeddings that the model in memory gives for the fixed texts.

    Raises:
        Diverged: they are not finite.
    """
    embeddings = embed_probes(model)
    nonfinite = ~embeddings.isfinite().all(dim=1)
    if bool(nonfinite.any()):
        text = PROBES[int(nonfinite.nonzero()[0]) % len(PROBES)]
        raise Diverged(
            f"the trained model gives NaN or infinity for the text {text!r}; lower MNRL_LEARNING_RATE, or use "
            "MNRL_PRECISION=fp32"
        )
    record = {"texts": PROBES, "embeddings": embeddings.tolist()}
    path.write_text(dumps(record, ensure_ascii=False), encoding="utf-8")


def recorded_probes(path: Path) -> torch.Tensor:
    return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["embeddings"])


def verify(folder: Path, recorded: Path) -> Verification:
    """Load the model from `folder` and compare its embeddings with the recorded ones.

    Raises:
        InternalError: they differ.
    """
    model = SentenceTransformer(str(folder))
    expected = recorded_probes(recorded)
    embeddings = embed_probes(model)
    if embeddings.shape != expected.shape:
        raise InternalError(
            f"the saved model gives embeddings of shape {tuple(embeddings.shape)}, the trained one "
            f"{tuple(expected.shape)}"
        )
    difference = float((embeddings - expected).abs().max())
    if not difference <= TOLERANCE:
        raise InternalError(
            f"the saved model does not give the embeddings of the trained one: they differ by {difference:.2g}, "
            f"rounding explains {TOLERANCE:g}"
        )
    return Verification(True, embeddings.shape[1], difference, TOLERANCE, (1, embeddings.shape[1]))
