"""The places of the chaos tests, for each test module its own."""

from collections.abc import Iterator

import pytest

from tests.chaos.places import Place, opened


@pytest.fixture(scope="module", params=["moto", "rclone"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=["moto", "rclone", "folder"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from opened(request.param, tmp_path_factory)
