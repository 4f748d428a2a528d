"""Is what was saved what was trained? Embeddings of fixed texts, from memory and from the reloaded folder."""

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

# Both sides embed in fp32 on the same kind of device. What is left is the rounding of differently ordered sums, a few
# times 1e-7 for unit-length vectors; a wrong, missing or half-written tensor is off by 1e-2 and more.
TOLERANCE = 1e-4


def embed_probes(model: SentenceTransformer) -> torch.Tensor:
    """Unit-length fp32 embeddings of the fixed texts: as they are, as queries, as documents.

    Shape (3 * texts, dimension); the last two are with the prompts that the model has for them.
    """
    ways = (model.encode, model.encode_query, model.encode_document)
    found = [way(list(PROBES), convert_to_tensor=True, normalize_embeddings=True) for way in ways]
    return torch.cat(found).float().cpu()


def record_probes(model: SentenceTransformer, path: Path) -> None:
    """Write down what the model in memory says to the fixed texts.

    Raises:
        Diverged: it gives no numbers.
    """
    embeddings = embed_probes(model)
    wrong = ~embeddings.isfinite().all(dim=1)
    if bool(wrong.any()):
        text = PROBES[int(wrong.nonzero()[0]) % len(PROBES)]
        raise Diverged(
            f"the trained model gives NaN or infinity for the text {text!r}; lower MNRL_LEARNING_RATE, or use "
            "MNRL_PRECISION=fp32"
        )
    content = {"texts": PROBES, "embeddings": embeddings.tolist()}
    path.write_text(dumps(content, ensure_ascii=False), encoding="utf-8")


def recorded_probes(path: Path) -> torch.Tensor:
    """What `record_probes` wrote down."""
    return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["embeddings"])


def verify(folder: Path, recorded: Path) -> Verification:
    """Load the model from `folder` and compare it with what was recorded.

    Raises:
        InternalError: the reloaded model says something else.
    """
    model = SentenceTransformer(str(folder))
    expected = recorded_probes(recorded)
    found = embed_probes(model)
    if found.shape != expected.shape:
        raise InternalError(
            f"the saved model gives embeddings of shape {tuple(found.shape)}, in memory it gave {tuple(expected.shape)}"
        )
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise InternalError(
            f"the saved model does not give the embeddings it gave in memory: they differ by {difference:.2g}, "
            f"rounding explains {TOLERANCE:g}"
        )
    return Verification(True, found.shape[1], difference, TOLERANCE, (1, found.shape[1]))
