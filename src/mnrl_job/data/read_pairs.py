"""Read the training pairs of all sources into one Arrow file, and count and record every rejected row."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from mnrl_job.config.row_filter import RowFilter
from mnrl_job.data.beir import BeirFolder
from mnrl_job.data.beir_pairs import find_beir_training_folder, read_beir_pairs
from mnrl_job.data.clean_text import Texts
from mnrl_job.data.columns import ColumnNames
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.pairs import Pairs, SourceRecord
from mnrl_job.data.row_counts import RowCounts, check_row_counts
from mnrl_job.data.row_selection import check_filter, check_labels
from mnrl_job.data.sources import LocalSource
from mnrl_job.data.tables import read_table, write_table
from mnrl_job.data.tabular import TabularPart, TabularSource, inspect_files
from mnrl_job.errors import DataError
from mnrl_job.system.files import sha256_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import warn
from mnrl_job.system.processes import run_in_processes

TEXTS_PER_BATCH = 20_000

Reader = TabularSource | BeirFolder


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which columns and rows to read, and how many of the rows may be unusable."""

    columns: ColumnNames = field(default_factory=ColumnNames)
    row_filter: RowFilter | None = None
    max_bad_row_ratio: float = 0.0


def read_pairs(sources: tuple[LocalSource, ...], options: ReadOptions, path: Path) -> Pairs:
    """Read all sources into the Arrow file `path`, one after another.

    Raises:
        DataError: no usable row, too many unusable ones, missing columns, or a damaged file.
    """
    with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        readers = [_open(source, options, Path(folder)) for source in sources]
        schema = _schema(any(isinstance(reader, TabularSource) and reader.has_negatives for reader in readers))
        counts, records = RowCounts(), []
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for source, reader in zip(sources, readers, strict=True):
                before = replace(counts)
                with source.uris_in_errors(), closing(_read_parts(reader, schema, Path(folder))) as parts:
                    for part_counts, part_path in parts:
                        counts.merge(part_counts, source.restore_uris)
                        _move_batches(part_path, writer)
                        heartbeat(rows_read=counts.read)
                records.append(_source_record(source, reader, counts, before))
    with ExitStack() as stack:
        for source in sources:
            stack.enter_context(source.uris_in_errors())
        _check_selection(readers, records, options.row_filter)
        check_row_counts(counts, options.max_bad_row_ratio)
        if not counts.pairs:
            raise DataError(_describe_empty(readers, counts.read))
    counts.log_negatives()
    has_negatives = any(counts.negatives)
    if not has_negatives:
        _drop_negatives(path)
    return Pairs(
        path=path,
        columns=tuple(_schema(has_negatives).names),
        rows=counts.pairs,
        rows_read=counts.read,
        rejected=dict(counts.rejected),
        bad_rows=tuple(counts.bad_rows),
        sources=tuple(records),
    )


def _open(source: LocalSource, options: ReadOptions, folder: Path) -> Reader:
    with source.uris_in_errors():
        return find_beir_training_folder(source.root) or inspect_files(
            source.files, source.root, options.columns, options.row_filter, folder
        )


def _read_parts(reader: Reader, schema: pa.Schema, folder: Path) -> Generator[tuple[RowCounts, Path]]:
    """The counts of each part of a source, and the Arrow file of its pairs."""
    parts: Sequence[TabularPart | BeirFolder] = reader.parts if isinstance(reader, TabularSource) else (reader,)
    paths = [folder / f"{number}.arrow" for number in range(len(parts))]
    tasks = [partial(_read_part, part, schema, path) for part, path in zip(parts, paths, strict=True)]
    with closing(run_in_processes(tasks, folder, "reading the data")) as results:
        for path, (part, counts) in zip(paths, results, strict=True):
            if isinstance(reader, TabularSource) and isinstance(part, TabularPart):
                reader.add_values(part)
            yield counts, path


def _read_part(
    part: TabularPart | BeirFolder, schema: pa.Schema, path: Path
) -> tuple[TabularPart | BeirFolder, RowCounts]:
    """Write the pairs of a part. Returns it, with the values that were found, and the counts."""
    counts = RowCounts()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in _in_batches(_usable_pairs(part, counts)):
            writer.write_batch(_record_batch(batch, schema))
    return part, counts


def _move_batches(path: Path, writer: pa.ipc.RecordBatchStreamWriter) -> None:
    for batch in read_table(path).to_batches():
        writer.write_batch(batch)
    path.unlink()


def _usable_pairs(part: TabularPart | BeirFolder, counts: RowCounts) -> Iterator[Texts]:
    for where, row in part.read() if isinstance(part, TabularPart) else read_beir_pairs(part):
        counts.read += 1
        if row is None:
            counts.filtered += 1
        elif isinstance(row, BadRow):
            counts.reject(row)
        else:
            counts.not_relevant += not row
            for texts in row:
                counts.add_pair(texts, where)
                yield texts


def _in_batches(pairs: Iterator[Texts]) -> Iterator[list[Texts]]:
    """Batches of about `TEXTS_PER_BATCH` texts: the number of negatives, and so of texts, differs between pairs."""
    batch: list[Texts] = []
    texts = 0
    for pair in pairs:
        batch.append(pair)
        texts += len(pair)
        if texts >= TEXTS_PER_BATCH:
            yield batch
            batch, texts = [], 0
    if batch:
        yield batch


def _record_batch(pairs: list[Texts], schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]}
    if "negatives" in schema.names:
        columns["negatives"] = [pair[2:] for pair in pairs]
    return pa.record_batch(columns, schema=schema)


def _check_selection(readers: Sequence[Reader], records: Sequence[SourceRecord], row_filter: RowFilter | None) -> None:
    tabular = [
        (reader, record) for reader, record in zip(readers, records, strict=True) if isinstance(reader, TabularSource)
    ]
    check_labels([reader for reader, _ in tabular], row_filter)
    check_filter(tabular, row_filter)


def _describe_empty(readers: Sequence[Reader], rows: int) -> str:
    """Why there are no pairs, although no row is unusable."""
    files = [file for reader in readers for file in (reader.files if isinstance(reader, TabularSource) else ())]
    qrels = [reader.qrels_file for reader in readers if isinstance(reader, BeirFolder)]
    others = len(files) + len(qrels) - 1
    if rows:
        problem, expected = "no judgment has a score above 0", "expected a document that is relevant to a query"
    else:
        problem, expected = "the file has no rows", "expected rows with an anchor and a positive text"
    more = f"; {others} other file(s) give no pair either" if others else ""
    return f"{(qrels or files)[0]}: {problem}{more}; {expected}"


def _drop_negatives(path: Path) -> None:
    """Remove the column if only rejected rows have negatives."""
    table = read_table(path)
    if "negatives" in table.column_names:
        partial = path.with_name(path.name + ".partial")
        write_table(partial, table.drop_columns(["negatives"]))
        partial.replace(path)


def _source_record(source: LocalSource, reader: Reader, counts: RowCounts, before: RowCounts) -> SourceRecord:
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if isinstance(reader, BeirFolder):
        columns = {"anchor": reader.queries_file.name, "positive": reader.corpus_file.name}
    else:
        columns, ignored = reader.columns, reader.ignored
        notes = tuple(source.restore_uris(note) for note in reader.notes)
    if ignored:
        warn(f"{source.name}: ignored columns: {', '.join(ignored)}")
    for note in notes:
        warn(f"{source.name}: {note}")
    return SourceRecord(
        name=source.name,
        uri=source.uri,
        files=len(reader.files),
        rows_read=counts.read - before.read,
        rows=counts.pairs - before.pairs,
        sha256=sha256_of(reader.files),
        columns=columns,
        ignored_columns=ignored,
        not_relevant=counts.not_relevant - before.not_relevant,
        filtered=counts.filtered - before.filtered,
        weight=source.weight,
        notes=notes,
    )


def _schema(has_negatives: bool) -> pa.Schema:
    """The number of negatives differs between rows, so they are a list."""
    columns = [("anchor", pa.string()), ("positive", pa.string()), ("negatives", pa.list_(pa.string()))]
    return pa.schema(columns if has_negatives else columns[:2])
