"""Which column is the anchor, which the positive, which are negatives: by name, never by order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mnrl_job.config.settings import Settings
from mnrl_job.data.blanks import trimmed
from mnrl_job.errors import DataError

KNOWN_PAIRS = (("anchor", "positive"), ("query", "document"), ("question", "answer"), ("query", "pos"))
NEGATIVE = re.compile(r"(hard[-_ ]?)?neg(ative)?s?[-_ ]?\d*")
# A column that is none of these by its name, though it seems to be meant as one.
SEEMS_NEGATIVE = re.compile(r"(?:.*[^a-z])?neg(?:ative)?s?(?:[^a-z].*)?")
NO_TEXTS = re.compile(r".*(?:scores?|ids?|ranks?|num|count|sims?|similarity|similarities)")
SHOWN_NAMES = 30

# The names in a file by what they are without case and surrounding blanks.
Names = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that are trained on, as they stand in the file.

    Positives and negatives may be lists of texts; in a column of `written` a list stands as one text.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    written: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        return (self.anchor, self.positive, *self.negatives)

    def roles(self) -> dict[str, str]:
        """Our name of each column -> its name in the file."""
        ours = ("anchor", "positive", *(f"negative_{i}" for i in range(1, len(self.negatives) + 1)))
        return dict(zip(ours, self.names(), strict=True))


def find_columns(found: Iterable[str], settings: Settings, where: str) -> Columns:
    """Map column names to their roles. Case and surrounding blanks do not matter, unless names differ in nothing else.

    Args:
        found: the columns of all rows.
        settings: name columns whose role their names do not tell.
        where: what messages name.

    Raises:
        DataError: naming what was found, where anchor or positive are missing or not clear.
    """
    names = _by_plain_name(found)
    anchor, positive = _pair(names, settings, where)
    columns = Columns(anchor, positive, _negatives(names, settings, where))
    if len(set(columns.names())) < len(columns.names()):
        raise DataError(f"{where}: one column cannot have two roles: {', '.join(columns.names())}")
    return columns


def find_column(found: Iterable[str], wanted: str, variable: str, where: str) -> str:
    """The column that a setting names.

    Raises:
        DataError: there is none, or it is not clear which.
    """
    return _named(_by_plain_name(found), wanted, variable, where)


def seem_negative(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some unused columns that may have been meant as negatives."""
    plain = {name: plain_name(name) for name in names}
    return tuple(name for name, one in plain.items() if SEEMS_NEGATIVE.fullmatch(one) and not NO_TEXTS.fullmatch(one))


def plain_name(name: str) -> str:
    return trimmed(name).casefold()


def _by_plain_name(found: Iterable[str]) -> Names:
    names: Names = {}
    for name in found:
        names.setdefault(plain_name(name), []).append(name)
    return names


def _only(alike: list[str], wanted: str, where: str) -> str:
    """The column that is called just so, else the only one that is meant."""
    if wanted in alike:
        return wanted
    if len(alike) > 1:
        told = ", ".join(map(repr, alike))
        raise DataError(f"{where}: the columns {told} differ only in case or whitespace; rename all but one")
    return alike[0]


def _negatives(names: Names, settings: Settings, where: str) -> tuple[str, ...]:
    if settings.negative_columns:
        return tuple(_named(names, name, "MNRL_NEGATIVE_COLUMNS", where) for name in settings.negative_columns)
    matching = (name for name in names if NEGATIVE.fullmatch(name))
    return tuple(_only(names[name], name, where) for name in sorted(matching, key=lambda name: (len(name), name)))


def _pair(names: Names, settings: Settings, where: str) -> tuple[str, str]:
    anchor = positive = None
    if settings.anchor_column:
        anchor = _named(names, settings.anchor_column, "MNRL_ANCHOR_COLUMN", where)
    if settings.positive_column:
        positive = _named(names, settings.positive_column, "MNRL_POSITIVE_COLUMN", where)
    if not (anchor or positive):
        for known in KNOWN_PAIRS:
            if all(name in names for name in known):
                return _only(names[known[0]], known[0], where), _only(names[known[1]], known[1], where)
    known_anchors, known_positives = (tuple(dict.fromkeys(side)) for side in zip(*KNOWN_PAIRS, strict=True))
    return (
        anchor or _of_role("anchor", known_anchors, names, where),
        positive or _of_role("positive", known_positives, names, where),
    )


def _named(names: Names, wanted: str, variable: str, where: str) -> str:
    plain = plain_name(wanted)
    if plain not in names:
        raise DataError(f"{where}: {variable}={wanted} is not a column; found {_list(names)}")
    return _only(names[plain], wanted, where)


def _of_role(role: str, known: tuple[str, ...], names: Names, where: str) -> str:
    candidates = [name for name in known if name in names]
    if len(candidates) == 1:
        return _only(names[candidates[0]], candidates[0], where)
    several = ", ".join(names[name][0] for name in candidates)
    problem = f"several {role} columns ({several})" if candidates else f"no {role} column"
    raise DataError(
        f"{where}: {problem}; found {_list(names)}; expected one of {', '.join(known)}, "
        f"or set MNRL_{role.upper()}_COLUMN"
    )


def _list(names: Names) -> str:
    every = [name for alike in names.values() for name in alike]
    more = f" and {len(every) - SHOWN_NAMES} more" if len(every) > SHOWN_NAMES else ""
    return (", ".join(every[:SHOWN_NAMES]) or "no columns") + more
