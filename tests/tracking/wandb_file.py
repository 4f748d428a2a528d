"""The content of a `.wandb` file: protobuf records in a LevelDB log of 32 KiB blocks."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

IDENT, HEADER, BLOCK = 7, 7, 1 << 15
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """All complete records of a file."""
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
    """The summary of the run."""
    values = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            values |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    return values


def config(path: Path) -> dict[str, str]:
    """The config at the start of the run."""
    run = next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")
    return {item.key: item.value_json for item in run.config.update}
