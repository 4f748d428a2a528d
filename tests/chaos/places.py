"""Storage of the chaos tests: two S3 servers, which differ in what they enforce, and a folder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.s3 import BUCKET, Server, serve

# For tests of a few rounds; those of many use all.
MOST_PLACES = pytest.mark.parametrize(
    "place", ["moto", pytest.param("rclone", marks=pytest.mark.slow), "folder"], indirect=True
)


@dataclass(frozen=True)
class Place:
    """Storage of runs: a folder, or a bucket of a server."""

    kind: str
    root: Path
    server: Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment if self.server else {}

    def uri(self, run: str) -> str:
        return f"s3://{BUCKET}/{run}" if self.server else str(self.root / run)

    def names(self, run: str) -> set[str]:
        """All files and empty folders of a run, including temporary files."""
        if self.server:
            pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{run}/")
            return {entry["Key"].removeprefix(f"{run}/") for page in pages for entry in page.get("Contents", [])}
        paths = (self.root / run).rglob("*")
        return {path.relative_to(self.root / run).as_posix() for path in paths if path.is_file() or empty(path)}

    def read(self, run: str, name: str) -> bytes:
        if self.server:
            return self.server.client().get_object(Bucket=BUCKET, Key=f"{run}/{name}")["Body"].read()
        return (self.root / run / name).read_bytes()

    def uploads(self) -> list[str]:
        return self.server.uploads() if self.server else []

    def remove(self, run: str) -> None:
        if self.server:
            for name in self.names(run):
                self.server.client().delete_object(Bucket=BUCKET, Key=f"{run}/{name}")
        else:
            shutil.rmtree(self.root / run, ignore_errors=True)


def empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def opened(kind: str, factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = factory.mktemp(kind)
    if kind == "folder":
        yield Place(kind, root)
    else:
        with serve(kind, root) as server:
            yield Place(kind, root, server)
