"""Storage of the chaos tests, one for each test module."""

from collections.abc import Iterator

import pytest

from tests.chaos.places import Place, opened


@pytest.fixture(scope="module", params=["moto", "rclone"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=["moto", "rclone", "folder"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)
