"""The training pairs of a run, and what each source contributed."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.data.file_formats.common import BadRow


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """How one source was read: the number of its files and their rows, and the `rows` of training pairs made of them.

    `columns` are by role, those of the first file, or for BEIR data the file; the hash is of the files' bytes in order.
    Rows that are `not_relevant` give no pair. Without `weight` a source counts by its number of pairs. `notes` are for
    the user.
    """

    name: str
    uri: str
    files: int
    rows_read: int
    rows: int
    sha256: str
    columns: dict[str, str]
    ignored_columns: tuple[str, ...]
    not_relevant: int = 0
    filtered: int = 0
    weight: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """The training pairs as one Arrow file, in the order of the sources.

    `columns` are anchor, positive and, if any row has some, negatives: a list of texts, which may be empty. Unusable
    rows are counted by reason in `rejected`; `bad_rows` are the first of them.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    rows_read: int
    rejected: dict[str, int]
    bad_rows: tuple[BadRow, ...]
    sources: tuple[SourceRecord, ...]

    @property
    def filtered(self) -> int:
        """Number of rows that `MNRL_ROW_FILTER` excludes."""
        return sum(source.filtered for source in self.sources)
