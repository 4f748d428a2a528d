"""Globs over paths and over the keys of a store."""

import glob
import re
from collections.abc import Iterator

from mnrl_job.storage import Entry

WILDCARD = re.compile(r"[*?\[]")


def filter_by_glob(entries: list[Entry], pattern: str) -> list[Entry]:
    for variant in glob_variants(pattern):
        regex = _compile_glob(variant)
        if matches := [entry for entry in entries if regex.fullmatch(entry.key)]:
            return matches
    return []


def glob_variants(pattern: str) -> Iterator[str]:
    """The glob with as many leading folders as possible taken literally, then fewer: `set [v1]` may be a folder."""
    levels = pattern.split("/")
    for count in range(len(levels) - 1, -1, -1):
        if count == 0 or WILDCARD.search(levels[count - 1]):
            yield "/".join([*map(glob.escape, levels[:count]), *levels[count:]])


def without_hidden(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if not is_hidden(entry.key)]


def _compile_glob(pattern: str) -> re.Pattern[str]:
    """Like Python's glob over paths: `*` matches within one level, `**` across levels."""
    *folders, last = pattern.split("/")
    levels = ["(?:[^/]+/)*" if part == "**" else _compile_level(part) + "/" for part in folders]
    return re.compile("".join(levels) + (".*" if last == "**" else _compile_level(last)), re.DOTALL)


def _compile_level(part: str) -> str:
    return "".join(_compile_token(token) for token in re.findall(r"\[!?[^\]]+\]|.", part, re.DOTALL))


def _compile_token(token: str) -> str:
    """`*`, `?` and `[…]` as in `fnmatch`, but none matches a slash."""
    if token in ("*", "?"):
        return "[^/]" + token.strip("?")
    if len(token) == 1:
        return re.escape(token)
    members = token[1:-1].replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
    return "(?!/)[" + ("^" + members[1:] if members.startswith("!") else members) + "]"


def is_hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/"))
