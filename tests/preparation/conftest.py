"""Training pairs and eval sets as the preparation gets them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnrl_job.inputs.evalset import write_evalset
from mnrl_job.records import EvalSet, Pairs, SourceRecord
from mnrl_job.runtime.tables import write_columns

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


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[[Rows], Pairs]:
    return lambda rows: pairs_of(rows, tmp_path)


@pytest.fixture
def evalset(tmp_path: Path) -> Callable[..., EvalSet]:
    """An eval set of queries, each with one relevant document, and other documents."""

    def write(name: str, relevant: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> EvalSet:
        queries = {f"q{i}": query for i, (query, _) in enumerate(relevant)}
        corpus = {f"d{i}": document for i, (_, document) in enumerate(relevant)}
        corpus |= {f"o{i}": document for i, document in enumerate(others)}
        grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(relevant))}
        grades |= {("q0", f"o{i}"): 0 for i in range(len(others))}
        return write_evalset(name, name, tmp_path / "eval" / name, queries, corpus, grades)

    return write
