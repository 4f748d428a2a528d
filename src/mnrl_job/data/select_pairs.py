"""Select some of the training pairs."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged
from mnrl_job.data.tables import read_table
from mnrl_job.system.heartbeat import heartbeat


def select_pairs(pairs: Pairs, negatives: Ragged, selected: NDArray[np.bool_], path: Path) -> tuple[Pairs, Ragged]:
    """The selected pairs, written to `path` unless all are selected, and the group ids of their negatives.

    `selected` is a mask, shape (rows,). The new file has no column of negatives if no selected pair has any.
    """
    if selected.all():
        return pairs, negatives
    negatives = negatives.select(np.flatnonzero(selected))
    columns = pairs.columns if len(negatives.values) else pairs.columns[:2]
    _write_selected(read_table(pairs.path).select(columns), selected, path)
    bounds = np.cumsum([0, *(source.rows for source in pairs.sources)])
    sources = tuple(
        replace(source, rows=int(selected[start:stop].sum()))
        for source, (start, stop) in zip(pairs.sources, pairwise(bounds), strict=True)
    )
    return replace(pairs, path=path, columns=columns, rows=int(selected.sum()), sources=sources), negatives


def _write_selected(table: pa.Table, selected: NDArray[np.bool_], path: Path) -> None:
    """Batch by batch: all selected texts together may not fit into memory."""
    start = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch.filter(pa.array(selected[start : start + len(batch)])))
            start += len(batch)
            heartbeat()
