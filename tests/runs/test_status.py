"""An attempt that made no progress differs from one that only waited for other nodes."""

import time

import pytest

from mnrl_job.health import FILE
from mnrl_job.runs.status import Status
from mnrl_job.system.phases import Phase

HANG_SECONDS = 0.2


@pytest.fixture
def status(tmp_path):
    return Status(tmp_path / FILE, "r", grace_seconds=30, hang_seconds=HANG_SECONDS)


def spend(status, phase, seconds=1.5 * HANG_SECONDS):
    status.on_heartbeat({"phase": phase})
    time.sleep(seconds)


def test_a_long_attempt_without_an_uploaded_checkpoint_made_no_progress(status):
    assert not status.made_no_progress
    spend(status, "prepare")
    assert status.made_no_progress
    status.on_checkpoint(20, upload_seconds=1.0)
    assert not status.made_no_progress


def test_waiting_for_other_nodes_to_join_does_not_count(status):
    spend(status, Phase.JOIN)
    assert not status.made_no_progress
    spend(status, "load", 0.1 * HANG_SECONDS)
    assert not status.made_no_progress
    spend(status, "train")
    assert status.made_no_progress
