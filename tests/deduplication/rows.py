"""Training pairs as the preparation gets them."""

from collections.abc import Sequence
from pathlib import Path

from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.tables import write_columns

Rows = Sequence[Sequence[str]]


def pairs_of(rows: Rows, folder: Path) -> Pairs:
    """Rows of anchor, positive and any negatives as the Arrow file that reading leaves, from one source."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = {"anchor": [row[0] for row in rows], "positive": [row[1] for row in rows]}
    if any(len(row) > 2 for row in rows):
        cells["negatives"] = [list(row[2:]) for row in rows]
    columns = tuple(cells)
    write_columns(folder / "pairs.arrow", **cells)
    source = SourceRecord("faq", "faq.jsonl", 1, len(rows), len(rows), "", {}, ())
    return Pairs(folder / "pairs.arrow", columns, len(rows), len(rows), {}, (), (source,))
