"""Training data whose rows hold their texts, in columns known by name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mnrl_job.errors import DataError
from mnrl_job.inputs.columns import Columns, find_columns, list_columns
from mnrl_job.inputs.rows import declared_columns, read_rows
from mnrl_job.inputs.texts import Line, row_texts
from mnrl_job.records import BadRow
from mnrl_job.settings import Settings

ROWS_TO_FIND_COLUMNS = 100


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file, and how many negatives its usable rows have."""

    columns: Columns
    negatives: set[int]


@dataclass(frozen=True, slots=True)
class Tabular:
    """The files of a source whose columns are known; `seen` are the names of all columns read so far."""

    files: tuple[Path, ...]
    layouts: dict[Path, Layout]
    seen: set[str] = field(default_factory=set)

    @property
    def columns(self) -> dict[str, str]:
        first = next(iter(self.layouts.values()), None)
        return first.columns.roles() if first else {}

    @property
    def ignored(self) -> tuple[str, ...]:
        return tuple(sorted(self.seen.difference(*(layout.columns.names() for layout in self.layouts.values()))))

    @property
    def negatives(self) -> dict[Path, set[int]]:
        return {file: layout.negatives for file, layout in self.layouts.items()}

    def lines(self) -> Iterator[Line]:
        """Yield the rows that each row of the files gives, or why it is unusable."""
        for file in self.files:
            layout = self.layouts.get(file)
            self.seen.update(declared_columns(file) or ())
            for line, row in read_rows(file, layout.columns.names() if layout else None):
                if isinstance(row, BadRow):
                    yield row
                else:
                    self.seen.update(row)
                    yield row_texts(row, self.layouts[file].columns, f"{file}:{line}")


def find_tabular(files: tuple[Path, ...], settings: Settings) -> Tabular:
    """Find the columns of each file.

    Raises:
        DataError: no row of a file has an anchor and a positive; it tells what the first row has.
    """
    layouts = {file: _layout(file, settings) for file in files}
    return Tabular(files, {file: layout for file, layout in layouts.items() if layout})


def _layout(file: Path, settings: Settings) -> Layout | None:
    """By the first row that has the columns. None for a file without rows, of which nothing needs to be known."""
    head = _head(file)
    lists = list_columns(head)
    problems = []
    for row in head:
        try:
            columns = find_columns(row, settings, str(file), lists)
        except DataError as problem:
            problems.append(problem)
        else:
            return _counted(file, row, lists, settings) if columns.lists else Layout(columns, {len(columns.negatives)})
    if problems:
        raise problems[0]
    return None


def _head(file: Path) -> list[dict[str, Any]]:
    """The first rows; for a format with a schema one row without texts, as its values need not be read."""
    declared = declared_columns(file)
    if declared is not None:
        return [{name: [] if is_list else None for name, is_list in declared.items()}] if declared else []
    return list(islice((row for _, row in read_rows(file) if isinstance(row, dict)), ROWS_TO_FIND_COLUMNS))


def _counted(file: Path, names: Iterable[str], lists: frozenset[str], settings: Settings) -> Layout:
    """Read a file with lists once, as only its rows know how many negatives they have, and in which columns."""
    columns = find_columns(names, settings, str(file), lists)
    negatives = set()
    for line, row in read_rows(file, columns.names()):
        if isinstance(row, BadRow):
            continue
        if late := list_columns([row]) - lists:
            lists |= late
            columns = find_columns(names, settings, str(file), lists)
        texts = row_texts(row, columns, f"{file}:{line}")
        if not isinstance(texts, BadRow):
            negatives.add(len(texts[0]) - 2)
    return Layout(columns, negatives)
