"""The places of the chaos tests: two real S3 servers that differ in what they enforce, and a folder."""

from collections.abc import Iterator

import pytest

from tests.chaos.scene import Place
from tests.servers.s3 import serve


def opened(kind: str, factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = factory.mktemp(kind)
    if kind == "folder":
        yield Place(kind, root)
    else:
        with serve(kind, root) as server:
            yield Place(kind, root, server)


@pytest.fixture(scope="module", params=["moto", "rclone"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=["moto", "rclone", "folder"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)
