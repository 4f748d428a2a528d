"""An attempt that got nowhere is told from one that only waited for other nodes."""

import time

import pytest

from mnrl_job.health import FILE
from mnrl_job.runs.status import Status
from mnrl_job.system.phases import JOIN

HANG_SECONDS = 0.2


@pytest.fixture
def status(tmp_path):
    return Status(tmp_path / FILE, "r", grace_seconds=30, hang_seconds=HANG_SECONDS)


def spend(status, phase, seconds=1.5 * HANG_SECONDS):
    status.follow({"doing": phase})
    time.sleep(seconds)


def test_an_attempt_that_took_long_and_kept_nothing_got_nowhere(status):
    assert not status.got_nowhere
    spend(status, "prepare")
    assert status.got_nowhere
    status.kept(20, seconds=1.0)
    assert not status.got_nowhere


def test_waiting_for_others_to_join_does_not_count(status):
    spend(status, JOIN)
    assert not status.got_nowhere
    spend(status, "load", 0.1 * HANG_SECONDS)
    assert not status.got_nowhere
    spend(status, "train")
    assert status.got_nowhere
