"""What the rows of a file have between them. The first rows do not tell: a column may come late, a list be a text."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mnrl_job.data.clean_text import is_absent
from mnrl_job.data.columns import Columns
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.data.stringified_lists import OPENERS, Form, form_of
from mnrl_job.errors import DataError


@dataclass(slots=True)
class Survey:
    """The columns of all rows, in the order they first appear, and how their texts are written.

    `filled` are those that hold anything in some row. `texts` counts those of each column, `forms` those of them that
    are a value as a program writes it; `first` names the first row with such a one.
    """

    names: dict[str, None] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    texts: Counter[str] = field(default_factory=Counter)
    forms: Counter[tuple[str, Form]] = field(default_factory=Counter)
    first: dict[tuple[str, Form], str] = field(default_factory=dict)

    def mostly(self, name: str, form: Form) -> bool:
        """Whether at least half of a column's texts are written so."""
        return 0 < self.texts[name] <= 2 * self.forms[name, form]


def take_survey(path: Path, columns: Collection[str] | None = None) -> Survey:
    """Read a file once, of Parquet only some `columns`."""
    survey = Survey()
    for line, row in read_rows(path, columns):
        if isinstance(row, BadRow):
            continue
        if not row.keys() <= survey.names.keys():
            survey.names.update(dict.fromkeys(row))
        for name, value in row.items():
            if name not in survey.filled and not is_absent(value):
                survey.filled.add(name)
            if type(value) is str and value:
                survey.texts[name] += 1
                if value[0] in OPENERS and (form := form_of(value)):
                    survey.forms[name, form] += 1
                    survey.first.setdefault((name, form), f"{path}:{line}")
    return survey


def refuse_forms(columns: Columns, survey: Survey) -> None:
    """Refuse columns whose texts are values as a program writes them, where it is not clear what text is meant.

    Raises:
        DataError: naming the first such row.
    """
    forms: dict[str, tuple[Form, ...]] = dict.fromkeys(columns.names(), ("bytes", "object"))
    forms[columns.anchor] = ("bytes", "object", "list")
    for name in forms:
        for form in forms[name]:
            if survey.mostly(name, form):
                raise DataError(f"{_told(name, form, survey)}; store the text itself, not its representation in code")


def tell_forms(columns: Columns, survey: Survey) -> Iterator[str]:
    """What should be told of such texts in the other columns: they are read as lists where most are, else as texts."""
    for (name, form), count in survey.forms.items():
        if name in columns.names():
            read = "lists" if survey.mostly(name, "list") and form == "list" else "texts"
            yield f"{_told(name, form, survey)}; {'they are' if count > 1 else 'it is'} read as {read}"


def _told(name: str, form: Form, survey: Survey) -> str:
    kind = {"list": "a list", "bytes": "bytes", "object": "an object"}[form]
    return f"{survey.first[name, form]}: {kind} stored as text in column {name}, in {survey.forms[name, form]} rows"
