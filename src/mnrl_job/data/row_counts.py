"""Counts of the rows read so far, and whether too many of them are unusable."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from mnrl_job.data.clean_text import Texts
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.missing_values import is_missing_value
from mnrl_job.errors import DataError
from mnrl_job.system.logs import log, warn

RECORDED_BAD_ROWS = 100
LOGGED_BAD_ROWS = 10


@dataclass(slots=True)
class RowCounts:
    """Counts over all sources. A row with several positives gives several pairs.

    `negatives` counts pairs by their number of negatives; `first_negatives` is where the first of each is. `missing`
    counts texts that look like missing values.
    """

    read: int = 0
    pairs: int = 0
    not_relevant: int = 0
    filtered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)
    negatives: Counter[int] = field(default_factory=Counter)
    first_negatives: dict[int, str] = field(default_factory=dict)
    missing: int = 0
    first_missing: str = ""

    def reject(self, bad_row: BadRow) -> None:
        self.rejected[bad_row.reason] += 1
        if len(self.bad_rows) < RECORDED_BAD_ROWS:
            self.bad_rows.append(bad_row)

    def add_pair(self, texts: Texts, where: str) -> None:
        self.pairs += 1
        self.negatives[len(texts) - 2] += 1
        self.first_negatives.setdefault(len(texts) - 2, where)
        for text in texts:
            if is_missing_value(text):
                self.missing += 1
                self.first_missing = self.first_missing or f"{text!r} at {where}"

    def merge(self, later: "RowCounts", restore_uris: Callable[[str], str]) -> None:
        """Add the counts of later rows. `restore_uris` replaces paths in what is shown to the user."""
        self.read += later.read
        self.pairs += later.pairs
        self.not_relevant += later.not_relevant
        self.filtered += later.filtered
        self.rejected.update(later.rejected)
        self.negatives.update(later.negatives)
        self.missing += later.missing
        for row in later.bad_rows[: RECORDED_BAD_ROWS - len(self.bad_rows)]:
            self.bad_rows.append(BadRow(restore_uris(row.where), row.reason, restore_uris(row.detail)))
        for number, where in later.first_negatives.items():
            self.first_negatives.setdefault(number, restore_uris(where))
        self.first_missing = self.first_missing or restore_uris(later.first_missing)

    def log_negatives(self) -> None:
        """Log where pairs differ in their number of negatives."""
        least, most = min(self.negatives), max(self.negatives)
        if least < most:
            numbers = " to ".join(f"{number} ({self.first_negatives[number]})" for number in (least, most))
            without = f"; {self.negatives[0]} of {self.pairs} have none" if self.negatives[0] else ""
            log(f"rows have {numbers} negatives{without}; each row is trained with its own")


def check_row_counts(counts: RowCounts, max_bad_row_ratio: float) -> None:
    """Warn of unusable rows and suspicious texts.

    Raises:
        DataError: more rows are unusable than allowed; the first ten are logged.
    """
    bad, selected = counts.rejected.total(), counts.read - counts.filtered
    if bad and (bad / selected > max_bad_row_ratio or not counts.pairs):
        for row in counts.bad_rows[:LOGGED_BAD_ROWS] if bad > 1 else ():
            warn(f"unusable row: {row.where}: {row.reason} ({row.detail})")
        raise DataError(
            describe_bad_rows(counts.rejected, counts.bad_rows[0], selected, "rows", max_bad_row_ratio),
            {
                "rejected": dict(counts.rejected),
                "rejected_rows": [asdict(row) for row in counts.bad_rows[:LOGGED_BAD_ROWS]],
            },
        )
    if bad:
        warn(f"skipped {bad} of {selected} rows as unusable: {count_reasons(counts.rejected)}; see audit.json")
    if counts.missing:
        warn(
            f"{counts.missing} texts look like missing values (first: {counts.first_missing}) and are trained on; "
            "remove their rows unless they are real text"
        )


def count_reasons(rejected: Mapping[str, int]) -> str:
    """As in `3 empty, 1 not text`."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(rejected).most_common())


def sufficient_ratio(bad: int, rows: int) -> float:
    """The least `MNRL_MAX_BAD_ROW_RATIO`, to two digits, that allows this many bad rows."""
    digits: int = 1 - math.floor(math.log10(bad / rows))
    scale = 10.0**digits
    return math.ceil(bad / rows * scale) / scale


def describe_bad_rows(rejected: Counter[str], first: BadRow, rows: int, what: str, max_bad_row_ratio: float) -> str:
    """Where the first bad row is, how many of so many `rows` are bad, and what to do, for an error message."""
    bad = rejected.total()
    limit = f", more than MNRL_MAX_BAD_ROW_RATIO={max_bad_row_ratio:g} allows" if bad / rows > max_bad_row_ratio else ""
    skip = f", or set MNRL_MAX_BAD_ROW_RATIO={sufficient_ratio(bad, rows):g} to skip them" if bad < rows else ""
    return (
        f"{first.where}: {first.reason} ({first.detail}); {bad} of {rows} {what} are unusable "
        f"({count_reasons(rejected)}){limit}; fix them{skip}"
    )
