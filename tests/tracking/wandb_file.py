"""What stands in a `.wandb` file: records of W&B's own format in a log of 32 KiB blocks, as LevelDB writes it."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

IDENT, HEADER, BLOCK = 7, 7, 1 << 15
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """All whole records of a file."""
    data, at, parts = path.read_bytes(), IDENT, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # no room for another header in this block
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += HEADER
        parts += data[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> list[dict[str, str]]:
    """What was logged, step by step, as JSON texts by name."""
    steps = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            steps.append({item.key or "/".join(item.nested_key): item.value_json for item in items})
    return steps


def summary(path: Path) -> dict[str, str]:
    """What was added to the run's summary."""
    found = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            found |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    return found


def config(path: Path) -> dict[str, str]:
    """The run's config when it began."""
    run = next(one.run for one in records(path) if one.WhichOneof("record_type") == "run")
    return {item.key: item.value_json for item in run.config.update}
