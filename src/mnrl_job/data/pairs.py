"""The training pairs of a run, and what each source gave to them."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.data.file_formats.common import BadRow


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What one source gave: `rows` from the `rows_read` in its files, of which `not_relevant` were judged to give none.

    `filtered` are those that `MNRL_ROW_FILTER` does not take. `sha256` covers the bytes of its files in order.
    `notes` are what its user should know of how it was read.
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
    """The training pairs as one Arrow file; `columns` are anchor, positive and, where any row has some, negatives.

    The negatives of a row are a list, which may be empty.
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
        """How many rows `MNRL_ROW_FILTER` does not take."""
        return sum(source.filtered for source in self.sources)
