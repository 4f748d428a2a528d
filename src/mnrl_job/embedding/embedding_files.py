"""Embeddings of any number of texts: a memory-mapped file on each machine, of which a rank holds parts only."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mnrl_job.data.tables import SelectedTexts
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.nonfinite import NonFiniteEmbedding
from mnrl_job.embedding.precision import Precision
from mnrl_job.embedding.prompts import Kind
from mnrl_job.system.local_rank import is_local_main_process

TEXTS_PER_PART = 2**16

# Of unit length, shape (texts, dimension): such a file, mapped, or a tensor.
Embeddings = NDArray[np.float32] | torch.Tensor


def encode_to_file(
    model: SentenceTransformer,
    texts: pa.ChunkedArray | SelectedTexts,
    kind: Kind,
    precision: Precision,
    tokens: Path,
    path: Path,
) -> NDArray[np.float32]:
    """As `encode`, part by part, into a file on each machine, which is returned mapped. Collective.

    Each part has a file of tokens of its own, whose name starts like `tokens`.

    Raises:
        Preempted: this process was asked to stop.
        NonFiniteEmbedding: the model returns NaN or infinity for a text.
    """

    def parts() -> Iterable[NDArray[np.float32]]:
        for part, start in enumerate(range(0, len(texts), TEXTS_PER_PART)):
            part_tokens = tokens.with_stem(f"{tokens.stem}-{part}")
            try:
                embeddings = encode(model, texts.slice(start, TEXTS_PER_PART), kind, precision, part_tokens)
            except NonFiniteEmbedding as error:
                error.row += start
                raise
            yield embeddings.cpu().numpy()

    return write_rows(path, (len(texts), int(model.get_embedding_dimension() or 0)), parts())


def write_rows(path: Path, shape: tuple[int, int], parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Write an array, given part by part, by the first worker of each machine; all map it. Collective.

    Written, not mapped, since a full disk would kill a process that writes to a map.
    """
    if is_local_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # others may have the old file mapped
        with path.open("wb") as file:
            header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
    else:
        for _ in parts:
            pass
    PartialState().wait_for_everyone()
    return _mapped(path)


def computed_once(path: Path, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """An array computed by the first worker of each machine; all map its file. Collective."""
    if is_local_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        np.save(path, compute())
    PartialState().wait_for_everyone()
    return _mapped(path)


def _mapped(path: Path) -> NDArray[Any]:
    """Copy-on-write: torch warns of arrays that are read-only."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="c")
    return mapped


def load(embeddings: Embeddings, rows: slice | NDArray[np.int64], dimension: int | None = None) -> torch.Tensor:
    """Some rows on this rank's device, truncated to `dimension`."""
    loaded = torch.as_tensor(embeddings[rows]).to(PartialState().device)
    return loaded if dimension is None else torch.nn.functional.normalize(loaded[:, :dimension])
