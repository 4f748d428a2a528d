"""Globs as users write them, over paths and over the keys of a store."""

import glob
import re
from collections.abc import Iterator

from mnrl_job.storage import Entry

WILD = re.compile(r"[*?\[]")


def matched(entries: list[Entry], pattern: str) -> list[Entry]:
    for reading in readings(pattern):
        wanted = _glob_pattern(reading)
        if found := [entry for entry in entries if wanted.fullmatch(entry.key)]:
            return found
    return []


def readings(pattern: str) -> Iterator[str]:
    """A glob with its first folders as they stand, as many as may be: `set [v1]/*.jsonl` looks there first."""
    levels = pattern.split("/")
    for count in range(len(levels) - 1, -1, -1):
        if count == 0 or WILD.search(levels[count - 1]):
            yield "/".join([*map(glob.escape, levels[:count]), *levels[count:]])


def visible(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if not is_hidden(entry.key)]


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """A glob over keys, as Python's over paths: `*` stays within a level, `**` crosses them."""
    *folders, last = pattern.split("/")
    levels = ["(?:[^/]+/)*" if part == "**" else _within_level(part) + "/" for part in folders]
    return re.compile("".join(levels) + (".*" if last == "**" else _within_level(last)), re.DOTALL)


def _within_level(part: str) -> str:
    return "".join(_token(token) for token in re.findall(r"\[!?[^\]]+\]|.", part, re.DOTALL))


def _token(token: str) -> str:
    """`*`, `?` and `[…]` as `fnmatch` has them, but none matches a slash."""
    if token in ("*", "?"):
        return "[^/]" + token.strip("?")
    if len(token) == 1:
        return re.escape(token)
    members = token[1:-1].replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
    return "(?!/)[" + ("^" + members[1:] if members.startswith("!") else members) + "]"


def is_hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/"))
