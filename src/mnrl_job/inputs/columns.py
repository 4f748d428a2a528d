"""Which column is the anchor, which the positive, which are negatives: by name, never by order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mnrl_job.errors import DataError
from mnrl_job.settings import Settings

KNOWN_PAIRS = (("anchor", "positive"), ("query", "document"), ("question", "answer"), ("query", "pos"))
NEGATIVE = re.compile(r"negative(_\d+)?|neg|negatives")
# What FlagEmbedding calls its lists.
LISTS = ("pos", "neg", "negatives")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are trained on, as they stand in the file.

    Those in `lists` may hold several texts, or one; negatives among them may be absent.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    lists: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        return (self.anchor, self.positive, *self.negatives)

    def roles(self) -> dict[str, str]:
        """Our name of each column -> its name in the file."""
        ours = ("anchor", "positive", *(f"negative_{i}" for i in range(1, len(self.negatives) + 1)))
        return dict(zip(ours, self.names(), strict=True))


def find_columns(found: Iterable[str], settings: Settings, where: str, lists: Iterable[str] = ()) -> Columns:
    """Map column names to their roles. Case and surrounding blanks do not matter.

    Args:
        found: the columns of one row.
        settings: name columns whose role their names do not tell.
        where: what messages name.
        lists: columns that are lists, by any row of the file. Those of negatives need not be among the `found`.

    Raises:
        DataError: naming what was found, where anchor or positive are missing or not clear.
    """
    names = _plain(found)
    anchor, positive = _pair(names, settings, where)
    negatives = _negatives(_plain(lists) | names, settings, where)
    columns = Columns(anchor, positive, negatives, frozenset(lists).intersection((positive, *negatives)))
    if len(set(columns.names())) < len(columns.names()):
        raise DataError(f"{where}: one column cannot have two roles: {', '.join(columns.names())}")
    return columns


def list_columns(rows: Iterable[dict[str, Any]]) -> frozenset[str]:
    """The columns that hold a list, or whose name says so."""
    return frozenset(
        name
        for row in rows
        for name, value in row.items()
        if isinstance(value, list) or name.strip().casefold() in LISTS
    )


def _plain(names: Iterable[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in names}


def _negatives(names: dict[str, str], settings: Settings, where: str) -> tuple[str, ...]:
    if settings.negative_columns:
        return tuple(_named(names, name, "MNRL_NEGATIVE_COLUMNS", where) for name in settings.negative_columns)
    matching = (name for name in names if NEGATIVE.fullmatch(name))
    return tuple(names[name] for name in sorted(matching, key=lambda name: (len(name), name)))


def _pair(names: dict[str, str], settings: Settings, where: str) -> tuple[str, str]:
    anchor = positive = None
    if settings.anchor_column:
        anchor = _named(names, settings.anchor_column, "MNRL_ANCHOR_COLUMN", where)
    if settings.positive_column:
        positive = _named(names, settings.positive_column, "MNRL_POSITIVE_COLUMN", where)
    if not (anchor or positive):
        for known_anchor, known_positive in KNOWN_PAIRS:
            if known_anchor in names and known_positive in names:
                return names[known_anchor], names[known_positive]
    anchor = anchor or _only([names[a] for a, _ in KNOWN_PAIRS if a in names], "anchor", names, where)
    positive = positive or _only([names[p] for _, p in KNOWN_PAIRS if p in names], "positive", names, where)
    return anchor, positive


def _named(names: dict[str, str], wanted: str, variable: str, where: str) -> str:
    if wanted.casefold() not in names:
        raise DataError(f"{where}: {variable}={wanted} is not a column; found {_list(names)}")
    return names[wanted.casefold()]


def _only(candidates: list[str], role: str, names: dict[str, str], where: str) -> str:
    candidates = list(dict.fromkeys(candidates))
    if len(candidates) == 1:
        return candidates[0]
    known = ", ".join(dict.fromkeys(pair[role == "positive"] for pair in KNOWN_PAIRS))
    problem = f"several {role} columns ({', '.join(candidates)})" if candidates else f"no {role} column"
    raise DataError(
        f"{where}: {problem}; found {_list(names)}; expected one of {known}, or set MNRL_{role.upper()}_COLUMN"
    )


def _list(names: dict[str, str]) -> str:
    return ", ".join(names.values()) or "no columns"
