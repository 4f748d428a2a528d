"""Embeddings with NaN or infinity: reported with their text, never ranked or written."""

import pyarrow as pa
import torch

from mnrl_job.embedding.prompts import Kind
from mnrl_job.errors import DataError

SHOWN_CHARACTERS = 60
REMEDY = "use MNRL_PRECISION=fp32, or another model"


class NonFiniteEmbedding(DataError):
    """The model returns NaN or infinity for the text in a row of the queries or documents."""

    def __init__(self, kind: Kind, row: int, text: str) -> None:
        self.kind_of_text, self.row, self.text = kind, row, text[:SHOWN_CHARACTERS]
        super().__init__(f"the model returns NaN or infinity for the {kind} {self.text!r}; {REMEDY}")


def check_finite(embeddings: torch.Tensor, texts: pa.ChunkedArray, kind: Kind) -> None:
    """Check all embeddings, shape (texts, dimension), at once, so that the device is synchronized only once.

    Raises:
        NonFiniteEmbedding: for the first such text.
    """
    nonfinite = ~embeddings.isfinite().all(dim=1)
    if bool(nonfinite.any()):
        row = int(nonfinite.nonzero()[0])
        raise NonFiniteEmbedding(kind, row, texts[row].as_py())
