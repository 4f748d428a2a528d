"""Training pairs and eval sets as inputs of preparation."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnrl_job.data.evalset import EvalData, EvalSet, write_evalset
from mnrl_job.data.pairs import Pairs
from tests.deduplication.rows import Rows, pairs_of


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
        return write_evalset(name, name, tmp_path / "eval" / name, EvalData(queries, corpus, grades))

    return write
