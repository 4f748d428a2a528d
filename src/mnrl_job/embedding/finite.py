"""Embeddings that are no numbers: told with the text, never ranked or written down."""

import pyarrow as pa
import torch

from mnrl_job.embedding.prompts import Kind
from mnrl_job.errors import DataError

SHOWN_CHARACTERS = 60


class UndefinedEmbedding(DataError):
    """The model gives NaN or infinity for a text, which is that many rows down among those of its kind."""

    def __init__(self, kind: Kind, row: int, text: str) -> None:
        self.kind_of_text, self.row, self.text = kind, row, text[:SHOWN_CHARACTERS]
        super().__init__(f"the model gives NaN or infinity for the {kind} {self.text!r}; {REMEDY}")


REMEDY = "use MNRL_PRECISION=fp32, or give a sound model"


def check_finite(embeddings: torch.Tensor, texts: pa.ChunkedArray, kind: Kind) -> None:
    """Look at all embeddings at once, so that a device is waited for only once.

    Args:
        embeddings: shape (texts, dimension).
        texts: the same number.
        kind: what they are.

    Raises:
        UndefinedEmbedding: naming the first text.
    """
    wrong = ~embeddings.isfinite().all(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise UndefinedEmbedding(kind, row, texts[row].as_py())
