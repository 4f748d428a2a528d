#!/usr/bin/env python3
"""Write a lock file anew with the SHA-256 of every file of each release, as the package index tells them.

add_hashes.py LOCK [--without NAME …] [--beyond OTHER]: leaves out NAME, and what OTHER holds, with the comments below.
"""

import argparse
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pypi_simple import PyPISimple

PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)")


def hashes(name: str, version: str) -> list[str]:
    """The SHA-256 of all files of a release, for any platform.

    Raises:
        ValueError: the index has none.
    """
    with PyPISimple() as index:
        files = index.get_project_page(name).packages
    found = sorted(file.digests["sha256"] for file in files if file.version == version)
    if not found:
        raise ValueError(f"the index has no files of {name}=={version}")
    return found


def blocks(text: str) -> Iterator[list[str]]:
    """The lines of each package, its comments below it, and those above the first as a block of their own."""
    block: list[str] = []
    for line in text.splitlines():
        if PINNED.match(line):
            yield block
            block = []
        block.append(line)
    yield block


def hashed(block: list[str]) -> list[str]:
    found = PINNED.match(block[0]) if block else None
    if not found:
        return block
    lines = [block[0].removesuffix(" \\"), *(f"    --hash=sha256:{one}" for one in hashes(found[1], found[2]))]
    comments = [line for line in block[1:] if "--hash=" not in line]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1], *comments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--beyond", type=Path, metavar="OTHER")
    options = parser.parse_args()
    there = [name_of(block) for block in blocks(options.beyond.read_text())] if options.beyond else []
    left_out = {*options.without, *there} - {None}
    kept = [block for block in blocks(options.lock.read_text()) if name_of(block) not in left_out]
    with ThreadPoolExecutor(8) as pool:
        lines = [line for block in pool.map(hashed, kept) for line in block]
    options.lock.write_text("\n".join(lines) + "\n")


def name_of(block: list[str]) -> str | None:
    found = PINNED.match(block[0]) if block else None
    return found[1] if found else None


if __name__ == "__main__":
    main()
