"""From data files to the training pairs of record: one Arrow file, every rejected row counted and named."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mnrl_job.errors import DataError
from mnrl_job.inputs.columns import Columns, find_columns
from mnrl_job.inputs.fetch import Fetched
from mnrl_job.inputs.rows import is_unicode, read_rows
from mnrl_job.records import BadRow, Pairs, SourceRecord
from mnrl_job.runtime.files import sha256_of
from mnrl_job.runtime.logs import warn
from mnrl_job.settings import Settings

NAMED_BAD_ROWS = 100
ROWS_PER_BATCH = 10_000
ROWS_TO_FIND_COLUMNS = 100

Texts = tuple[str, ...]
Layout = dict[Path, Columns]


@dataclass(slots=True)
class _Tally:
    """What has been seen so far."""

    read: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[BadRow] = field(default_factory=list)

    def reject(self, bad: BadRow) -> None:
        self.rejected[bad.reason] += 1
        if len(self.named) < NAMED_BAD_ROWS:
            self.named.append(bad)


def read_pairs(sources: tuple[Fetched, ...], settings: Settings, path: Path) -> Pairs:
    """Read all sources into the Arrow file `path`.

    Raises:
        DataError: no usable row, too many unusable ones, missing columns, or a damaged file.
    """
    tally = _Tally()
    layouts = []
    for source in sources:
        with source.named():
            layouts.append(_layout(source, settings))
    roles = _common_roles(sources, layouts)
    records = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _schema(roles)) as writer:
        for source, layout in zip(sources, layouts, strict=True):
            before = (tally.read, tally.kept)
            keys: set[str] = set()
            rows = _usable_rows(source, layout, tally, keys)
            with source.named():
                while batch := list(islice(rows, ROWS_PER_BATCH)):
                    columns = [pa.array(column) for column in zip(*batch, strict=True)]
                    writer.write_batch(pa.record_batch(columns, roles))
            records.append(_source_record(source, layout, tally, before, keys))
    _enforce(tally, settings.max_bad_rows)
    return Pairs(
        path=path,
        columns=roles,
        rows=tally.kept,
        rows_read=tally.read,
        rejected=dict(tally.rejected),
        bad_rows=tuple(tally.named),
        sources=tuple(records),
    )


def _layout(source: Fetched, settings: Settings) -> Layout:
    """Find the columns of each file of a source, by its first row that has them.

    Raises:
        DataError: no row of a file has an anchor and a positive; it tells what the first row has.
    """
    layout: Layout = {}
    for file in source.files:
        rows = (row for _, row in read_rows(file) if isinstance(row, dict))
        problems = []
        for row in islice(rows, ROWS_TO_FIND_COLUMNS):
            try:
                layout[file] = find_columns(row, settings, str(file))
                break
            except DataError as problem:
                problems.append(problem)
        else:
            if problems:
                raise problems[0]
    return layout


def _common_roles(sources: tuple[Fetched, ...], layouts: list[Layout]) -> tuple[str, ...]:
    """The columns all files agree on. A file with fewer negatives than another is refused, not filled up.

    Raises:
        DataError: where the files differ.
    """
    roles = {
        source.as_given(str(file)): tuple(columns.roles())
        for source, layout in zip(sources, layouts, strict=True)
        for file, columns in layout.items()
    }
    if len(set(roles.values())) > 1:
        fewest, most = min(roles, key=lambda file: len(roles[file])), max(roles, key=lambda file: len(roles[file]))
        raise DataError(
            f"{fewest} has {len(roles[fewest]) - 2} negative column(s), {most} has {len(roles[most]) - 2}; "
            "all training files need the same number, or name those to use in MNRL_NEGATIVE_COLUMNS"
        )
    return next(iter(roles.values()), ("anchor", "positive"))


def _usable_rows(source: Fetched, layout: Layout, tally: _Tally, keys: set[str]) -> Iterator[Texts]:
    """Yield the texts of each usable row; count the others in `tally`, and collect all column names in `keys`."""
    for file in source.files:
        for line, row in read_rows(file):
            tally.read += 1
            if isinstance(row, dict):
                keys.update(row)
            texts = row if isinstance(row, BadRow) else _texts(row, layout[file], f"{file}:{line}")
            if isinstance(texts, BadRow):
                tally.reject(replace(texts, where=source.as_given(texts.where)))
            else:
                tally.kept += 1
                yield texts


def _texts(row: dict[str, Any], columns: Columns, where: str) -> Texts | BadRow:
    texts = []
    for name in columns.names():
        value = row.get(name)
        if name not in row:
            return BadRow(where, "missing column", name)
        if value is None:
            return BadRow(where, "null", name)
        if not isinstance(value, str):
            return BadRow(where, "not text", f"{name} is of type {type(value).__name__}")
        if not value.strip():
            return BadRow(where, "empty", name)
        if not is_unicode(value):
            return BadRow(where, "not UTF-8", f"{name} holds half a character")
        texts.append(value.strip())
    return tuple(texts)


def _enforce(tally: _Tally, tolerated: float) -> None:
    bad = sum(tally.rejected.values())
    if bad > tolerated * tally.read:
        first = tally.named[0]
        raise DataError(
            f"{first.where}: {first.reason} ({first.detail}); {bad} of {tally.read} rows are unusable "
            f"({_counts(tally.rejected)}), more than MNRL_MAX_BAD_ROWS={tolerated:g} allows; mend them or raise it"
        )
    if not tally.kept:
        raise DataError("MNRL_TRAIN_DATA holds no usable pair; expected rows with an anchor and a positive text")
    if bad:
        warn(f"left out {bad} of {tally.read} rows as unusable: {_counts(tally.rejected)}; see audit.json")


def _counts(rejected: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())


def _source_record(
    source: Fetched, layout: Layout, tally: _Tally, before: tuple[int, int], keys: set[str]
) -> SourceRecord:
    columns = next(iter(layout.values()), None)
    ignored = tuple(sorted(keys.difference(*(one.names() for one in layout.values()))))
    if ignored:
        warn(f"{source.name}: left out columns that are neither anchor, positive nor negative: {', '.join(ignored)}")
    return SourceRecord(
        name=source.name,
        uri=source.uri,
        files=len(source.files),
        rows_read=tally.read - before[0],
        rows=tally.kept - before[1],
        sha256=sha256_of(source.files),
        columns=columns.roles() if columns else {},
        ignored_columns=ignored,
    )


def _schema(roles: tuple[str, ...]) -> pa.Schema:
    return pa.schema([(role, pa.string()) for role in roles])
