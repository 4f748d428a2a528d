"""What reading has seen so far, and whether it is enough to go on."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field

from mnrl_job.data.clean_text import Texts
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.missing_values import is_missing_value
from mnrl_job.data.sources import LocalSource
from mnrl_job.errors import DataError
from mnrl_job.system.logs import log, warn

NAMED_BAD_ROWS = 100
TOLD_BAD_ROWS = 10


@dataclass(slots=True)
class Tally:
    """Lines `read`, and the rows they gave; `filtered` were not asked for, `missing` texts say that there is none."""

    read: int = 0
    kept: int = 0
    not_relevant: int = 0
    filtered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[BadRow] = field(default_factory=list)
    negatives: Counter[int] = field(default_factory=Counter)
    first_negatives: dict[int, str] = field(default_factory=dict)
    missing: int = 0
    first_missing: str = ""

    def reject(self, bad: BadRow) -> None:
        self.rejected[bad.reason] += 1
        if len(self.named) < NAMED_BAD_ROWS:
            self.named.append(bad)

    def keep(self, texts: Texts, source: LocalSource, where: str) -> None:
        self.kept += 1
        self.negatives[len(texts) - 2] += 1
        if len(texts) - 2 not in self.first_negatives:
            self.first_negatives[len(texts) - 2] = source.as_given(where)
        for text in texts:
            if is_missing_value(text):
                self.missing += 1
                self.first_missing = self.first_missing or f"{text!r} at {source.as_given(where)}"

    def tell_negatives(self) -> None:
        """Where rows differ in how many they have, the log says so."""
        least, most = min(self.negatives), max(self.negatives)
        if least < most:
            told = " to ".join(f"{one} ({self.first_negatives[one]})" for one in (least, most))
            none = f"; {self.negatives[0]} of {self.kept} have none" if self.negatives[0] else ""
            log(f"rows have {told} negatives{none}; each row is trained with its own")

    @property
    def counts(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common())


def enforce(tally: Tally, tolerated: float) -> None:
    """Stop where more rows are unusable than may be, or none is left; tell what else is wrong with them.

    Raises:
        DataError: naming the first bad row; the first ten are told before.
    """
    bad, asked = sum(tally.rejected.values()), tally.read - tally.filtered
    if bad and bad / asked > tolerated:
        first = tally.named[0]
        for row in tally.named[:TOLD_BAD_ROWS] if bad > 1 else ():
            warn(f"unusable row: {row.where}: {row.reason} ({row.detail})")
        raise DataError(
            f"{first.where}: {first.reason} ({first.detail}); {bad} of {asked} rows are unusable ({tally.counts}), "
            f"more than MNRL_MAX_BAD_ROW_RATIO={tolerated:g} allows; {remedy(bad, asked)}",
            {
                "rejected": dict(tally.rejected),
                "rejected_rows": [asdict(row) for row in tally.named[:TOLD_BAD_ROWS]],
            },
        )
    if not tally.kept:
        raise DataError(
            "MNRL_TRAIN_DATA contains no usable pair; expected rows with an anchor and a positive text, "
            "or judgements with a score above 0"
        )
    if bad:
        warn(f"skipped {bad} of {asked} rows as unusable: {tally.counts}; see audit.json")
    if tally.missing:
        warn(
            f"{tally.missing} texts look like missing values (first: {tally.first_missing}) and are trained on; "
            "remove their rows unless they are real text"
        )


def sufficient_ratio(bad: int, rows: int) -> float:
    """The least `MNRL_MAX_BAD_ROW_RATIO` of few digits that tolerates so many bad rows."""
    digits: int = 1 - math.floor(math.log10(bad / rows))
    scale = 10.0**digits
    return math.ceil(bad / rows * scale) / scale


def remedy(bad: int, rows: int) -> str:
    """What to do about so many bad rows."""
    if bad == rows:
        return "fix them"
    return f"fix them, or set MNRL_MAX_BAD_ROW_RATIO={sufficient_ratio(bad, rows):g} to skip them"
