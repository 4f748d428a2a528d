"""Find the columns of anchors, positives and negatives: by name, never by order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mnrl_job.data.blanks import strip_invisible
from mnrl_job.errors import DataError

KNOWN_PAIRS = (("anchor", "positive"), ("query", "document"), ("question", "answer"), ("query", "pos"))
NEGATIVE = re.compile(r"(hard[-_ ]?)?neg(ative)?s?[-_ ]?\d*")
# Other columns that may have been meant as negatives.
SEEMS_NEGATIVE = re.compile(r"(?:.*[^a-z])?neg(?:ative)?s?(?:[^a-z].*)?")
NOT_TEXTS = re.compile(r".*(?:scores?|ids?|ranks?|num|count|sims?|similarity|similarities)")
MAX_SHOWN_NAMES = 30

# The names in a file by their normalized names.
NamesByKey = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The columns that the user names; those left empty are detected by name."""

    anchor: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a file's anchor, positive and negative columns.

    A cell of a positive or negative column holds a text or a list of texts; those of `stringified` columns hold lists
    written as text.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    stringified: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        return (self.anchor, self.positive, *self.negatives)

    def roles(self) -> dict[str, str]:
        """Role (anchor, positive, negative_1, negative_2) -> name in the file."""
        roles = ("anchor", "positive", *(f"negative_{i}" for i in range(1, len(self.negatives) + 1)))
        return dict(zip(roles, self.names(), strict=True))


def find_columns(names: Iterable[str], configured: ColumnNames, where: str) -> Columns:
    """Map column names to their roles. Case and surrounding whitespace matter only between names that differ by these.

    Raises:
        DataError: anchor or positive are missing or ambiguous.
    """
    by_key = _group_by_key(names)
    anchor, positive = _find_pair(by_key, configured, where)
    columns = Columns(anchor, positive, _find_negatives(by_key, configured.negatives, where))
    if len(set(columns.names())) < len(columns.names()):
        raise DataError(f"{where}: one column cannot have two roles: {', '.join(columns.names())}")
    return columns


def find_column(names: Iterable[str], wanted: str, variable: str, where: str) -> str:
    """The column that a setting names.

    Raises:
        DataError: it is missing or ambiguous.
    """
    return _find_configured(_group_by_key(names), wanted, variable, where)


def seem_negative(names: Iterable[str]) -> tuple[str, ...]:
    """The unused columns that may have been meant as negatives."""
    keys = {name: normalize_name(name) for name in names}
    return tuple(name for name, key in keys.items() if SEEMS_NEGATIVE.fullmatch(key) and not NOT_TEXTS.fullmatch(key))


def normalize_name(name: str) -> str:
    """Case-folded, without surrounding whitespace."""
    return strip_invisible(name).casefold()


def _group_by_key(names: Iterable[str]) -> NamesByKey:
    by_key: NamesByKey = {}
    for name in names:
        by_key.setdefault(normalize_name(name), []).append(name)
    return by_key


def _choose(candidates: list[str], wanted: str, where: str) -> str:
    """Of the columns with the same key the one that matches exactly, else the only one."""
    if wanted in candidates:
        return wanted
    if len(candidates) > 1:
        shown = ", ".join(map(repr, candidates))
        raise DataError(f"{where}: the columns {shown} differ only in case or whitespace; rename all but one")
    return candidates[0]


def _find_negatives(by_key: NamesByKey, configured: tuple[str, ...], where: str) -> tuple[str, ...]:
    if configured:
        return tuple(_find_configured(by_key, name, "MNRL_NEGATIVE_COLUMNS", where) for name in configured)
    keys = (key for key in by_key if NEGATIVE.fullmatch(key))
    return tuple(_choose(by_key[key], key, where) for key in sorted(keys, key=lambda key: (len(key), key)))


def _find_pair(by_key: NamesByKey, configured: ColumnNames, where: str) -> tuple[str, str]:
    anchor = positive = None
    if configured.anchor:
        anchor = _find_configured(by_key, configured.anchor, "MNRL_ANCHOR_COLUMN", where)
    if configured.positive:
        positive = _find_configured(by_key, configured.positive, "MNRL_POSITIVE_COLUMN", where)
    if not (anchor or positive):
        for pair in KNOWN_PAIRS:
            if all(key in by_key for key in pair):
                return _choose(by_key[pair[0]], pair[0], where), _choose(by_key[pair[1]], pair[1], where)
    known_anchors, known_positives = (tuple(dict.fromkeys(side)) for side in zip(*KNOWN_PAIRS, strict=True))
    return (
        anchor or _detect("anchor", known_anchors, by_key, where),
        positive or _detect("positive", known_positives, by_key, where),
    )


def _find_configured(by_key: NamesByKey, wanted: str, variable: str, where: str) -> str:
    key = normalize_name(wanted)
    if key not in by_key:
        raise DataError(f"{where}: {variable}={wanted} is not a column; found {_list_names(by_key)}")
    return _choose(by_key[key], wanted, where)


def _detect(role: str, known: tuple[str, ...], by_key: NamesByKey, where: str) -> str:
    candidates = [key for key in known if key in by_key]
    if len(candidates) == 1:
        return _choose(by_key[candidates[0]], candidates[0], where)
    several = ", ".join(by_key[key][0] for key in candidates)
    problem = f"several {role} columns ({several})" if candidates else f"no {role} column"
    raise DataError(
        f"{where}: {problem}; found {_list_names(by_key)}; expected one of {', '.join(known)}, "
        f"or set MNRL_{role.upper()}_COLUMN"
    )


def _list_names(by_key: NamesByKey) -> str:
    names = [name for names in by_key.values() for name in names]
    more = f" and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else ""
    return (", ".join(names[:MAX_SHOWN_NAMES]) or "no columns") + more
