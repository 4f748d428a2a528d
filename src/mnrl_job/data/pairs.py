"""The training pairs of a run, and what each source contributed."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.data.file_formats.common import BadRow


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """How one source was read.

    Attributes:
        name: of the source.
        uri: as given.
        files: number of files.
        rows_read: rows in the files.
        rows: training pairs made of them.
        sha256: of the bytes of its files, in order.
        columns: role -> column in the first file; for BEIR data the file.
        ignored_columns: unused columns.
        not_relevant: rows judged not relevant, which give no pair.
        filtered: rows that `MNRL_ROW_FILTER` excludes.
        weight: of the source in each epoch; None for its number of pairs.
        notes: what the user should know about how it was read.
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
    """The training pairs as one Arrow file.

    Attributes:
        path: of the file.
        columns: anchor, positive and, if any row has some, negatives: a list of texts, which may be empty.
        rows: number of pairs.
        rows_read: rows in the files of all sources.
        rejected: number of unusable rows, by reason.
        bad_rows: the first unusable rows.
        sources: in the order of their rows.
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
