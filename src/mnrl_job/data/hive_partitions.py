"""Columns in the names of folders, as Hive and Spark write them: `split=train/part-0.parquet`."""

import os
from pathlib import Path
from urllib.parse import unquote

Partition = dict[str, str]


def partitions_of(files: tuple[Path, ...], root: Path) -> dict[Path, Partition]:
    """The columns of each file by its folders below `root`, or below their common parent if that is no folder."""
    if not files:
        return {}
    base = root if root.is_dir() else os.path.commonpath([file.parent for file in files])
    return {file: _columns(Path(os.path.relpath(file.parent, base))) for file in files}


def _columns(folder: Path) -> Partition:
    parts = (part.partition("=") for part in folder.parts)
    return {unquote(name): unquote(value) for name, sign, value in parts if sign and name}
