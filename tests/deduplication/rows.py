"""Training pairs as inputs of preparation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.ragged import no_values
from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication.groups import TextGroups

# A text long enough that a changed word makes a near-duplicate.
LONG = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"

Rows = Sequence[Sequence[str]]


def pairs_of(rows: Rows, folder: Path) -> Pairs:
    """Rows of anchor, positive and any negatives as the Arrow file that reading writes, from one source."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = {"anchor": [row[0] for row in rows], "positive": [row[1] for row in rows]}
    if any(len(row) > 2 for row in rows):
        cells["negatives"] = [list(row[2:]) for row in rows]
    columns = tuple(cells)
    write_columns(folder / "pairs.arrow", **cells)
    source = SourceRecord("faq", "faq.jsonl", 1, len(rows), len(rows), "", {}, ())
    return Pairs(folder / "pairs.arrow", columns, len(rows), len(rows), {}, (), (source,))


def text_groups(ids: NDArray[np.int64]) -> TextGroups:
    """Texts without near-duplicates or negatives, by the ids of each row's anchor and positive."""
    empty = np.empty(0, dtype=np.int64)
    return TextGroups(ids, ids, no_values(len(ids)), empty.astype(bool), ids[:, 1], empty)
