"""Training data in files whose rows hold their texts, in columns known by name."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mnrl_job.config.row_filter import Condition, RowFilter
from mnrl_job.data.clean_text import ParsedRow, extract_pairs
from mnrl_job.data.column_survey import Survey, refuse_stringified, stringified_notes, survey_span
from mnrl_job.data.columns import ColumnNames, Columns, find_column, find_columns, seem_negative
from mnrl_job.data.file_formats.common import BadRow, Span
from mnrl_job.data.file_formats.rows import declared_columns, read_rows, split_file
from mnrl_job.data.hive_partitions import Partition, partitions_of
from mnrl_job.data.label_columns import ValueCounts, may_be_label
from mnrl_job.errors import DataError
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.processes import run_in_processes


@dataclass(frozen=True, slots=True)
class FileSchema:
    """The columns of a file: all, those with a role, possible labels, and those of the row filter.

    `has_negatives`: whether any row has a negative. `notes` are for the user.
    """

    names: tuple[str, ...]
    columns: Columns
    labels: tuple[str, ...]
    conditions: tuple[tuple[str, Condition], ...]
    has_negatives: bool = False
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        return (*self.columns.names(), *self.labels, *(name for name, _ in self.conditions))


@dataclass(frozen=True, slots=True)
class TabularPart:
    """A span of a file; `schema` is None if the file has no rows.

    Columns of the file take precedence over those of the same name in the partition. Reading fills `label_values`, of
    the selected rows, and `filter_values`, of all rows, for the row filter.
    """

    file: Path
    span: Span
    schema: FileSchema | None
    partition: Partition
    label_values: dict[str, ValueCounts] = field(default_factory=dict)
    filter_values: dict[str, ValueCounts] = field(default_factory=dict)

    def read(self) -> Iterator[tuple[str, ParsedRow]]:
        """Yield the location of each row, `file:line`, with its pairs, or why it gives none."""
        schema, partition = self.schema, self.partition
        for line, row in read_rows(self.file, schema.used if schema else None, self.span):
            where = f"{self.file}:{line}"
            if isinstance(row, BadRow) or schema is None:
                yield where, row if isinstance(row, BadRow) else ()
            elif self._is_selected(row := partition | row if partition else row, schema, where):
                for name in schema.labels:
                    self.label_values.setdefault(name, ValueCounts(name)).add(row.get(name), where)
                yield where, extract_pairs(row, schema.columns, where)
            else:
                yield where, None

    def _is_selected(self, row: dict[str, Any], schema: FileSchema, where: str) -> bool:
        is_selected = True
        for name, condition in schema.conditions:
            value = row.get(name)
            self.filter_values.setdefault(name, ValueCounts(name)).add(value, where)
            try:
                is_selected &= condition.holds(value)
            except TypeError as error:
                raise DataError(f"{where}: MNRL_ROW_FILTER={condition} cannot compare {name}: {error}") from None
        return is_selected


@dataclass(frozen=True, slots=True)
class TabularSource:
    """The files of a source with their spans, whose columns are known; `schemas` are of the files that have rows.

    `partitions` are columns in the names of the files' folders. `add_values` fills `label_values` and `filter_values`.
    """

    spans: dict[Path, list[Span]]
    schemas: dict[Path, FileSchema]
    partitions: dict[Path, Partition]
    label_values: dict[str, ValueCounts] = field(default_factory=dict)
    filter_values: dict[str, ValueCounts] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.spans)

    @property
    def parts(self) -> tuple[TabularPart, ...]:
        return tuple(
            TabularPart(file, span, self.schemas.get(file), self.partitions[file])
            for file, spans in self.spans.items()
            for span in spans
        )

    def add_values(self, part: TabularPart) -> None:
        """Add the values of a part that was read."""
        for mine, values_of_part in ((self.label_values, part.label_values), (self.filter_values, part.filter_values)):
            for name, values in values_of_part.items():
                mine[name] = mine[name].merge(values) if name in mine else values

    @property
    def columns(self) -> dict[str, str]:
        first = next(iter(self.schemas.values()), None)
        return first.columns.roles() if first else {}

    @property
    def ignored(self) -> tuple[str, ...]:
        """The columns of any file that are not used."""
        unused = (
            set(schema.names).difference(schema.columns.names(), (name for name, _ in schema.conditions))
            for schema in self.schemas.values()
        )
        return tuple(sorted(set().union(*unused)))

    @property
    def has_negatives(self) -> bool:
        return any(schema.has_negatives for schema in self.schemas.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the files."""
        notes = [note for schema in self.schemas.values() for note in schema.notes]
        if names := seem_negative(self.ignored):
            notes.append(f"unused columns look like negatives; add them to MNRL_NEGATIVE_COLUMNS: {', '.join(names)}")
        return tuple(notes)


def inspect_files(
    files: tuple[Path, ...], root: Path, column_names: ColumnNames, row_filter: RowFilter | None, folder: Path
) -> TabularSource:
    """Find the columns of each file below `root`, by all of its rows. Processes write their results to `folder`.

    Raises:
        DataError: in a file the anchor, the positive or a column of the filter is missing or ambiguous.
    """
    partitions = partitions_of(files, root)

    def assign_columns(file: Path, names: Iterable[str]) -> FileSchema:
        return _assign_columns(tuple(names), partitions[file], column_names, row_filter, str(file))

    declared = {file: declared_columns(file) for file in files}
    used = {file: assign_columns(file, names).used if names else None for file, names in declared.items()}
    spans = {file: split_file(file) for file in files}
    parts = [(file, span) for file in files for span in spans[file]]
    tasks = [partial(survey_span, file, span, used[file]) for file, span in parts]
    surveys: dict[Path, Survey] = defaultdict(Survey)
    with closing(run_in_processes(tasks, folder, "reading the data")) as results:
        for (file, _), survey in zip(parts, results, strict=True):
            surveys[file].merge(survey)
            heartbeat()
    schemas = {
        file: _add_survey(assign_columns(file, declared[file] or survey.names), survey)
        for file, survey in surveys.items()
        if survey.names
    }
    return TabularSource(spans, schemas, partitions)


def _add_survey(schema: FileSchema, survey: Survey) -> FileSchema:
    refuse_stringified(schema.columns, survey)
    stringified = frozenset(name for name in schema.columns.names() if survey.is_mostly(name, "list"))
    return replace(
        schema,
        columns=replace(schema.columns, stringified=stringified),
        notes=tuple(stringified_notes(schema.columns, survey)),
        has_negatives=not survey.filled.isdisjoint(schema.columns.negatives),
    )


def _assign_columns(
    file_columns: tuple[str, ...],
    partition: Partition,
    column_names: ColumnNames,
    row_filter: RowFilter | None,
    where: str,
) -> FileSchema:
    """Texts are in the columns of the file only; labels and filters may use the partition's as well."""
    names = tuple(dict.fromkeys((*file_columns, *partition)))
    columns = find_columns(file_columns, column_names, where)
    conditions = row_filter.conditions if row_filter else ()
    filtered = tuple(
        (find_column(names, condition.column, "MNRL_ROW_FILTER", where), condition) for condition in conditions
    )
    labels = tuple(name for name in names if may_be_label(name) and name not in columns.names())
    return FileSchema(names, columns, labels, filtered)
