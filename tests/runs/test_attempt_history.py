"""The attempts at a run: how each went, and what it lost."""

import pytest

from mnrl_job.errors import StorageError
from mnrl_job.runs import attempt_history
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.system import timestamps


@pytest.fixture
def at(monkeypatch):
    """Set the time of day, and let seconds pass."""
    passed = [1000.0]
    monkeypatch.setattr(attempt_history, "monotonic", lambda: passed[0])

    def set_to(clock, after=0.0):
        passed[0] += after
        monkeypatch.setattr(timestamps, "now", lambda: f"2026-01-01T{clock}Z")

    return set_to


def test_each_attempt_tells_what_it_did_and_what_was_lost_of_it(store, at):
    at("10:00:00")
    killed = AttemptHistory("a")
    killed.write(store)
    at("10:05:00", after=300)
    killed.write(store, last_step=50)
    at("11:00:00")
    stopped = AttemptHistory("b")
    stopped.write(store, first_step=40, last_step=40)
    stopped.write(store, outcome="preempted", message="stopped on request", last_step=70)
    at("12:00:00")
    last = AttemptHistory("c")
    last.write(store, first_step=70, last_step=100, outcome="succeeded")
    attempts = last.all(store)
    told = [(one["outcome"], one["steps_done"], one["steps_lost"], one["seconds"]) for one in attempts]
    assert told == [("killed", 50, 10, 300.0), ("preempted", 30, 0, 0.0), ("succeeded", 30, 0, 0.0)]
    assert [one["message"] for one in attempts] == [None, "stopped on request", None]


def test_how_long_an_attempt_took_does_not_depend_on_who_sets_the_clock(store, at):
    at("10:00:00")
    AttemptHistory("a").write(store)
    last = AttemptHistory("b")
    at("09:00:30", after=30)
    last.write(store, outcome="succeeded")
    assert {one["outcome"]: one["seconds"] for one in last.all(store)} == {"killed": 0.0, "succeeded": 30.0}


def test_a_checkpoint_that_was_made_counts_though_nobody_told_of_it(store, at):
    at("10:00:00")
    AttemptHistory("a").write(store)
    at("11:00:00")
    last = AttemptHistory("b")
    last.write(store, first_step=40, last_step=100)
    assert [(one["steps_done"], one["steps_lost"]) for one in last.all(store)] == [(40, 0), (60, 0)]


def test_storage_that_fails_stops_no_run(at):
    at("10:00:00")

    class Gone:
        def write(self, *_):
            raise StorageError("it does not answer")

        list_objects = write

    alone = AttemptHistory("a")
    alone.write(Gone(), last_step=3, outcome="succeeded")
    assert [one["steps_done"] for one in alone.all(Gone())] == [3]


def test_what_is_no_entry_is_passed_over(store, at):
    at("10:00:00")
    store.write("checkpoints/attempts/broken.json", b"{")
    assert len(AttemptHistory("a").all(store)) == 1
