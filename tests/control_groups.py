"""Control groups of their own for tests that want what containers have: limits of memory and of processor time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def control_group(controller: str, limit: str, value: int) -> Iterator[Path]:
    """A group (version 1) with a limit; gives the file that takes processes in. Where there is none, skip the test."""
    group = Path("/sys/fs/cgroup", controller, "mnrl-job-test")
    try:
        group.mkdir()
        (group / limit).write_text(str(value))
    except OSError as error:
        pytest.skip(f"may not limit {controller} here: {error}")
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
