"""Columns that stand in the names of folders, as Hive and Spark write them: `split=train/part-0.parquet`."""

import os
from pathlib import Path
from urllib.parse import unquote

Partition = dict[str, str]


def partitions_of(files: tuple[Path, ...]) -> dict[Path, Partition]:
    """The columns of each file by the folders in which it stands apart from others.

    A folder that all of them share tells nothing of one row against another.
    """
    if not files:
        return {}
    shared = os.path.commonpath([file.parent for file in files])
    return {file: _columns(Path(os.path.relpath(file.parent, shared))) for file in files}


def _columns(folder: Path) -> Partition:
    parts = (part.partition("=") for part in folder.parts)
    return {unquote(name): unquote(value) for name, sign, value in parts if sign and name}
