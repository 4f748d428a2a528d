"""From data files to the training pairs of record: one Arrow file, every rejected row counted and named."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mnrl_job.config.settings import Settings
from mnrl_job.data.beir_pairs import BeirPairs, find_judged
from mnrl_job.data.clean_text import Texts
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.row_counts import Tally, enforce
from mnrl_job.data.row_selection import check_filter, check_taken
from mnrl_job.data.sources import LocalSource
from mnrl_job.data.tables import read_table, write_table
from mnrl_job.data.tabular import Tabular, find_tabular
from mnrl_job.system.files import sha256_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import warn

TEXTS_PER_BATCH = 20_000

Content = Tabular | BeirPairs


def read_pairs(sources: tuple[LocalSource, ...], settings: Settings, path: Path) -> Pairs:
    """Read all sources into the Arrow file `path`, one after another.

    Raises:
        DataError: no usable row, too many unusable ones, missing columns, or a damaged file.
    """
    contents = []
    for source in sources:
        with source.named():
            contents.append(find_judged(source.root) or find_tabular(source.files, source.root, settings))
    schema = _schema(any(content.has_negatives for content in contents))
    tally, records = Tally(), []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for source, content in zip(sources, contents, strict=True):
            before = replace(tally)
            with source.named():
                for batch in _in_batches(_usable_rows(source, content, tally)):
                    writer.write_batch(_record_batch(batch, schema))
                    heartbeat(rows_read=tally.read)
            records.append(_source_record(source, content, tally, before))
    _check(sources, contents, records, settings)
    enforce(tally, settings.max_bad_row_ratio)
    tally.tell_negatives()
    negatives = any(tally.negatives)
    if not negatives:
        _drop_negatives(path)
    return Pairs(
        path=path,
        columns=tuple(_schema(negatives).names),
        rows=tally.kept,
        rows_read=tally.read,
        rejected=dict(tally.rejected),
        bad_rows=tuple(tally.named),
        sources=tuple(records),
    )


def _usable_rows(source: LocalSource, content: Content, tally: Tally) -> Iterator[Texts]:
    """Yield the texts of each usable row; count the others in `tally`."""
    for where, line in content.lines():
        tally.read += 1
        if line is None:
            tally.filtered += 1
        elif isinstance(line, BadRow):
            tally.reject(BadRow(source.as_given(line.where), line.reason, source.as_given(line.detail)))
        else:
            tally.not_relevant += not line
            for texts in line:
                tally.keep(texts, source, where)
                yield texts


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


def _check(
    sources: tuple[LocalSource, ...], contents: list[Content], records: list[SourceRecord], settings: Settings
) -> None:
    """Whether the right rows were taken of those sources whose rows have columns; judgements say it themselves."""
    read = [
        (content, record) for content, record in zip(contents, records, strict=True) if isinstance(content, Tabular)
    ]
    with ExitStack() as stack:
        for source in sources:
            stack.enter_context(source.named())
        check_taken([content for content, _ in read], settings.row_filter)
        check_filter(read, settings.row_filter)


def _drop_negatives(path: Path) -> None:
    """Take the column out where only rows that are not used have some."""
    table = read_table(path)
    if "negatives" in table.column_names:
        smaller = path.with_name(path.name + ".partial")
        write_table(smaller, table.drop_columns(["negatives"]))
        smaller.replace(path)


def _source_record(source: LocalSource, content: Content, tally: Tally, before: Tally) -> SourceRecord:
    if content.ignored:
        names = ", ".join(content.ignored)
        warn(f"{source.name}: ignored columns: {names}")
    notes = tuple(source.as_given(note) for note in content.notes)
    for note in notes:
        warn(f"{source.name}: {note}")
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
        filtered=tally.filtered - before.filtered,
        weight=source.weight,
        notes=notes,
    )


def _schema(negatives: bool) -> pa.Schema:
    """How many negatives there are is a matter of each row: they are a list, where any row has some."""
    columns = [("anchor", pa.string()), ("positive", pa.string()), ("negatives", pa.list_(pa.string()))]
    return pa.schema(columns if negatives else columns[:2])
