"""From data files to the training pairs of record: one Arrow file, every rejected row counted and named."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from mnrl_job.errors import DataError
from mnrl_job.inputs.fetch import Fetched
from mnrl_job.inputs.judged import Judged, find_judged
from mnrl_job.inputs.tabular import Tabular, find_tabular
from mnrl_job.inputs.texts import Texts
from mnrl_job.records import BadRow, Pairs, SourceRecord
from mnrl_job.runtime.files import sha256_of
from mnrl_job.runtime.logs import log, warn
from mnrl_job.settings import Settings

NAMED_BAD_ROWS = 100
TEXTS_PER_BATCH = 20_000

Content = Tabular | Judged


@dataclass(slots=True)
class _Tally:
    """What has been seen so far: lines `read`, and the rows they gave."""

    read: int = 0
    kept: int = 0
    not_relevant: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[BadRow] = field(default_factory=list)

    def reject(self, bad: BadRow) -> None:
        self.rejected[bad.reason] += 1
        if len(self.named) < NAMED_BAD_ROWS:
            self.named.append(bad)


def read_pairs(sources: tuple[Fetched, ...], settings: Settings, path: Path) -> Pairs:
    """Read all sources into the Arrow file `path`, one after another.

    Raises:
        DataError: no usable row, too many unusable ones, missing columns, or a damaged file.
    """
    contents = []
    for source in sources:
        with source.named():
            contents.append(find_judged(source.root) or find_tabular(source.files, settings))
    schema = _schema(_differing_negatives(sources, contents))
    tally, records = _Tally(), []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for source, content in zip(sources, contents, strict=True):
            before = replace(tally)
            with source.named():
                for batch in _in_batches(_usable_rows(source, content, tally)):
                    writer.write_batch(_record_batch(batch, schema))
            records.append(_source_record(source, content, tally, before))
    _enforce(tally, settings.max_bad_rows)
    return Pairs(
        path=path,
        columns=tuple(schema.names),
        rows=tally.kept,
        rows_read=tally.read,
        rejected=dict(tally.rejected),
        bad_rows=tuple(tally.named),
        sources=tuple(records),
    )


def _differing_negatives(sources: tuple[Fetched, ...], contents: list[Content]) -> bool:
    """Whether any row has negatives; where rows differ in how many, the log says so."""
    negatives = {
        source.as_given(str(file)): counts
        for source, content in zip(sources, contents, strict=True)
        for file, counts in content.negatives.items()
        if counts
    }
    most = max(chain.from_iterable(negatives.values()), default=0)
    least = min(chain.from_iterable(negatives.values()), default=0)
    if least < most:
        named = {number: next(file for file in negatives if number in negatives[file]) for number in (least, most)}
        log(
            f"rows have from {least} (in {named[least]}) to {most} (in {named[most]}) negatives; "
            "each is trained with those that it has"
        )
    return most > 0


def _usable_rows(source: Fetched, content: Content, tally: _Tally) -> Iterator[Texts]:
    """Yield the texts of each usable row; count the others in `tally`."""
    for line in content.lines():
        tally.read += 1
        if isinstance(line, BadRow):
            tally.reject(BadRow(source.as_given(line.where), line.reason, source.as_given(line.detail)))
        else:
            tally.not_relevant += not line
            tally.kept += len(line)
            yield from line


def _in_batches(rows: Iterator[Texts]) -> Iterator[list[Texts]]:
    """Rows by the batch: so many that they have `TEXTS_PER_BATCH` texts between them, one long row or many short."""
    batch: list[Texts] = []
    texts = 0
    for row in rows:
        batch.append(row)
        texts += len(row)
        if texts >= TEXTS_PER_BATCH:
            yield batch
            batch, texts = [], 0
    if batch:
        yield batch


def _record_batch(rows: list[Texts], schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {"anchor": [row[0] for row in rows], "positive": [row[1] for row in rows]}
    if "negatives" in schema.names:
        columns["negatives"] = [row[2:] for row in rows]
    return pa.record_batch(columns, schema=schema)


def _enforce(tally: _Tally, tolerated: float) -> None:
    bad = sum(tally.rejected.values())
    if bad > tolerated * tally.read:
        first = tally.named[0]
        raise DataError(
            f"{first.where}: {first.reason} ({first.detail}); {bad} of {tally.read} rows are unusable "
            f"({_counts(tally.rejected)}), more than MNRL_MAX_BAD_ROWS={tolerated:g} allows; mend them or raise it"
        )
    if not tally.kept:
        raise DataError(
            "MNRL_TRAIN_DATA holds no usable pair; expected rows with an anchor and a positive text, "
            "or judgements with a score above 0"
        )
    if bad:
        warn(f"left out {bad} of {tally.read} rows as unusable: {_counts(tally.rejected)}; see audit.json")


def _counts(rejected: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())


def _source_record(source: Fetched, content: Content, tally: _Tally, before: _Tally) -> SourceRecord:
    if content.ignored:
        names = ", ".join(content.ignored)
        warn(f"{source.name}: left out columns that are neither anchor, positive nor negative: {names}")
    return SourceRecord(
        name=source.name,
        uri=source.uri,
        files=len(content.files),
        rows_read=tally.read - before.read,
        rows=tally.kept - before.kept,
        sha256=sha256_of(content.files),
        columns=content.columns,
        ignored_columns=content.ignored,
        not_relevant=tally.not_relevant - before.not_relevant,
        weight=source.weight,
    )


def _schema(negatives: bool) -> pa.Schema:
    """How many negatives there are is a matter of each row: they are a list, where any row has some."""
    columns = [("anchor", pa.string()), ("positive", pa.string()), ("negatives", pa.list_(pa.string()))]
    return pa.schema(columns if negatives else columns[:2])
