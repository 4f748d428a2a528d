"""Survey all rows of a file before it is read: the first rows do not show every column, or how lists are written."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mnrl_job.data.clean_text import is_empty
from mnrl_job.data.columns import Columns
from mnrl_job.data.file_formats.common import BadRow, Span
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.stringified_lists import OPENERS, StringifiedType, stringified_type
from mnrl_job.errors import DataError


@dataclass(slots=True)
class Survey:
    """The columns of a file, and how many of their texts are stringified values, by column and type.

    `names` are in the order they first appear, `filled` have a value in some row, `first` is where the first value is.
    """

    names: dict[str, None] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    texts: Counter[str] = field(default_factory=Counter)
    stringified: Counter[tuple[str, StringifiedType]] = field(default_factory=Counter)
    first: dict[tuple[str, StringifiedType], str] = field(default_factory=dict)

    def is_mostly(self, name: str, kind: StringifiedType) -> bool:
        """Whether at least half of a column's texts are of this type."""
        return 0 < self.texts[name] <= 2 * self.stringified[name, kind]

    def merge(self, later: "Survey") -> None:
        self.names |= later.names
        self.filled |= later.filled
        self.texts.update(later.texts)
        self.stringified.update(later.stringified)
        self.first = later.first | self.first


def survey_span(path: Path, span: Span, columns: Collection[str] | None = None) -> Survey:
    """Read a span once. Of Parquet only the given columns are read."""
    survey = Survey()
    for line, row in read_rows(path, columns, span):
        if isinstance(row, BadRow):
            continue
        if not row.keys() <= survey.names.keys():
            survey.names.update(dict.fromkeys(row))
        for name, value in row.items():
            if name not in survey.filled and not is_empty(value):
                survey.filled.add(name)
            if type(value) is str and value:
                survey.texts[name] += 1
                if value[0] in OPENERS and (kind := stringified_type(value)):
                    survey.stringified[name, kind] += 1
                    survey.first.setdefault((name, kind), f"{path}:{line}")
    return survey


def refuse_stringified(columns: Columns, survey: Survey) -> None:
    """Refuse columns of stringified values that cannot be read as texts.

    Raises:
        DataError: naming the first such row.
    """
    refused: dict[str, tuple[StringifiedType, ...]] = dict.fromkeys(columns.names(), ("bytes", "object"))
    refused[columns.anchor] = ("bytes", "object", "list")
    for name in refused:
        for kind in refused[name]:
            if survey.is_mostly(name, kind):
                raise DataError(
                    f"{_describe(name, kind, survey)}; store the text itself, not its representation in code"
                )


def stringified_notes(columns: Columns, survey: Survey) -> Iterator[str]:
    """How stringified values are read: as lists in columns where most are lists, else as texts."""
    for (name, kind), count in survey.stringified.items():
        if name in columns.names():
            read_as = "lists" if survey.is_mostly(name, "list") and kind == "list" else "texts"
            yield f"{_describe(name, kind, survey)}; {'they are' if count > 1 else 'it is'} read as {read_as}"


def _describe(name: str, kind: StringifiedType, survey: Survey) -> str:
    what = {"list": "a list", "bytes": "bytes", "object": "an object"}[kind]
    return (
        f"{survey.first[name, kind]}: {what} stored as text in column {name}, in {survey.stringified[name, kind]} rows"
    )
