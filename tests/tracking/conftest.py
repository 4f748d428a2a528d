"""A run to report to trackers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.tracking.run import TrackedRun, tracked_run


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment, in which trackers set defaults."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    (tmp_path / "run").mkdir()
    return tracked_run(Settings(run_id="faq-7", batch_size=8), tmp_path, tmp_path / "run")
