"""The attempt history of a run: outcome, steps done and steps lost of each attempt."""

import pytest

from mnrl_job.errors import StorageError
from mnrl_job.runs import attempt_history
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.system import timestamps


@pytest.fixture
def set_time(monkeypatch):
    """Set the time of day, and advance the monotonic clock."""
    seconds = [1000.0]
    monkeypatch.setattr(attempt_history, "monotonic", lambda: seconds[0])

    def set_to(time_of_day, after=0.0):
        seconds[0] += after
        monkeypatch.setattr(timestamps, "now", lambda: f"2026-01-01T{time_of_day}Z")

    return set_to


def test_each_attempt_is_listed_with_its_outcome_and_the_steps_done_and_lost(store, set_time):
    set_time("10:00:00")
    killed = AttemptHistory("a")
    killed.update(store)
    set_time("10:05:00", after=300)
    killed.update(store, last_step=50)
    set_time("11:00:00")
    stopped = AttemptHistory("b")
    stopped.update(store, first_step=40, last_step=40)
    stopped.update(store, outcome="preempted", message="stopped on request", last_step=70)
    set_time("12:00:00")
    last = AttemptHistory("c")
    last.update(store, first_step=70, last_step=100, outcome="succeeded")
    attempts = last.records(store)
    assert [(each["outcome"], each["steps_done"], each["steps_lost"], each["seconds"]) for each in attempts] == [
        ("killed", 50, 10, 300.0),
        ("preempted", 30, 0, 0.0),
        ("succeeded", 30, 0, 0.0),
    ]
    assert [attempt["message"] for attempt in attempts] == [None, "stopped on request", None]


def test_the_duration_of_an_attempt_does_not_depend_on_the_wall_clock(store, set_time):
    set_time("10:00:00")
    AttemptHistory("a").update(store)
    last = AttemptHistory("b")
    set_time("09:00:30", after=30)
    last.update(store, outcome="succeeded")
    assert {attempt["outcome"]: attempt["seconds"] for attempt in last.records(store)} == {
        "killed": 0.0,
        "succeeded": 30.0,
    }


def test_steps_up_to_a_checkpoint_count_even_if_the_attempt_did_not_record_them(store, set_time):
    set_time("10:00:00")
    AttemptHistory("a").update(store)
    set_time("11:00:00")
    last = AttemptHistory("b")
    last.update(store, first_step=40, last_step=100)
    assert [(attempt["steps_done"], attempt["steps_lost"]) for attempt in last.records(store)] == [(40, 0), (60, 0)]


def test_a_storage_outage_does_not_fail_the_run(set_time):
    set_time("10:00:00")

    class Unavailable:
        def write(self, *_):
            raise StorageError("it does not answer")

        list_objects = write

    history = AttemptHistory("a")
    history.update(Unavailable(), last_step=3, outcome="succeeded")
    assert [attempt["steps_done"] for attempt in history.records(Unavailable())] == [3]


def test_a_damaged_file_is_skipped(store, set_time):
    set_time("10:00:00")
    store.write("checkpoints/attempts/broken.json", b"{")
    assert len(AttemptHistory("a").records(store)) == 1
