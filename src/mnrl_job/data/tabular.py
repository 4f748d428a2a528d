"""Training data whose rows hold their texts, in columns known by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnrl_job.config.row_filter import Condition
from mnrl_job.config.settings import Settings
from mnrl_job.data.clean_text import Line, row_texts
from mnrl_job.data.column_survey import refuse_forms, take_survey, tell_forms
from mnrl_job.data.columns import Columns, find_column, find_columns, seem_negative
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import declared_columns, read_rows
from mnrl_job.data.hive_partitions import Partition, partitions_of
from mnrl_job.data.label_columns import Values, is_judging
from mnrl_job.errors import DataError


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file: all `names`, those with a role, those that judge a row, and the filter's.

    `has_negatives` tells whether any row holds one, `notes` what should be told of the file.
    """

    names: tuple[str, ...]
    columns: Columns
    judging: tuple[str, ...]
    filter: tuple[tuple[str, Condition], ...]
    has_negatives: bool = False
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        return (*self.columns.names(), *self.judging, *(name for name, _ in self.filter))


@dataclass(frozen=True, slots=True)
class Tabular:
    """The files of a source whose columns are known.

    `partitions` are the columns in the names of their folders; a file's own go before. `values` are what judges the
    rows that were taken, `asked` what the filter asks for in all rows, by column.
    """

    files: tuple[Path, ...]
    layouts: dict[Path, Layout]
    partitions: dict[Path, Partition]
    values: dict[str, Values] = field(default_factory=dict)
    asked: dict[str, Values] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        first = next(iter(self.layouts.values()), None)
        return first.columns.roles() if first else {}

    @property
    def ignored(self) -> tuple[str, ...]:
        """The columns of any file that have no use there."""
        unused = (
            set(layout.names).difference(layout.columns.names(), (name for name, _ in layout.filter))
            for layout in self.layouts.values()
        )
        return tuple(sorted(set().union(*unused)))

    @property
    def has_negatives(self) -> bool:
        return any(layout.has_negatives for layout in self.layouts.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be told of the files."""
        meant = seem_negative(self.ignored)
        told = f"unused columns look like negatives; add them to MNRL_NEGATIVE_COLUMNS: {', '.join(meant)}"
        return (*(note for layout in self.layouts.values() for note in layout.notes), *((told,) if meant else ()))

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Yield where each row of the files stands, with the rows that it gives, or why it gives none."""
        for file in self.files:
            layout, partition = self.layouts.get(file), self.partitions[file]
            for line, row in read_rows(file, layout.used if layout else None):
                where = f"{file}:{line}"
                if isinstance(row, BadRow) or layout is None:
                    yield where, row if isinstance(row, BadRow) else ()
                elif self._takes(row := partition | row if partition else row, layout, where):
                    for name in layout.judging:
                        self.values.setdefault(name, Values(name)).add(row.get(name), where)
                    yield where, row_texts(row, layout.columns, where)
                else:
                    yield where, None

    def _takes(self, row: dict[str, Any], layout: Layout, where: str) -> bool:
        taken = True
        for name, condition in layout.filter:
            value = row.get(name)
            self.asked.setdefault(name, Values(name)).add(value, where)
            try:
                taken &= condition.holds(value)
            except TypeError as error:
                raise DataError(f"{where}: MNRL_ROW_FILTER={condition} cannot compare {name}: {error}") from None
        return taken


def find_tabular(files: tuple[Path, ...], root: Path, settings: Settings) -> Tabular:
    """Find the columns of each file below a root, by all of its rows.

    Raises:
        DataError: a file has no anchor, no positive or no column of the filter, or it is not clear which it is.
    """
    partitions = partitions_of(files, root)
    layouts = {file: _layout(file, partitions[file], settings) for file in files}
    return Tabular(files, {file: layout for file, layout in layouts.items() if layout}, partitions)


def _layout(file: Path, partition: Partition, settings: Settings) -> Layout | None:
    """None for a file without rows, of which nothing needs to be known."""
    declared = tuple(declared_columns(file) or ())
    own = _named(declared, partition, settings, str(file)).used if declared else None
    survey = take_survey(file, own)
    if not survey.names:
        return None
    layout = _named(declared or tuple(survey.names), partition, settings, str(file))
    refuse_forms(layout.columns, survey)
    written = frozenset(name for name in layout.columns.names() if survey.mostly(name, "list"))
    layout = replace(
        layout, columns=replace(layout.columns, written=written), notes=tuple(tell_forms(layout.columns, survey))
    )
    return replace(layout, has_negatives=not survey.filled.isdisjoint(layout.columns.negatives))


def _named(own: tuple[str, ...], partition: Partition, settings: Settings, where: str) -> Layout:
    """What the names of the columns tell; texts stand in the file's own, never in the name of a folder."""
    names = tuple(dict.fromkeys((*own, *partition)))
    columns = find_columns(own, settings, where)
    conditions = settings.row_filter.conditions if settings.row_filter else ()
    asked = tuple((find_column(names, one.column, "MNRL_ROW_FILTER", where), one) for one in conditions)
    judging = tuple(name for name in names if is_judging(name) and name not in columns.names())
    return Layout(names, columns, judging, asked)
