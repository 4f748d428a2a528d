"""Workers hang when none of them gets on; neither a clock nor a pause makes it look so."""

import signal
import subprocess
import sys
import time

import pytest

from mnrl_job.errors import HangTimeout
from mnrl_job.launch import watchdog
from mnrl_job.launch.watchdog import Watchdog
from mnrl_job.system import heartbeat
from mnrl_job.system.heartbeat import enter_phase, last_heartbeat
from mnrl_job.system.phases import Phase


class Clock:
    """The time as a watch sees it."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        pass


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A watch over two workers with 10 s of patience, their heartbeats, and what it tells of the first."""
    clock, seen = Clock(), []
    monkeypatch.setattr(watchdog, "time", clock)
    paths = [tmp_path / "0.json", tmp_path / "1.json"]
    looker = Watchdog(
        lambda: {f"worker {rank}": last_heartbeat(path) for rank, path in enumerate(paths)}, 10, seen.append
    )

    def look(*seconds, before=str):
        for second in seconds:
            clock.now = float(second)
            before(second)
            looker.poll()

    return look, paths, seen


def alive(path, heartbeats, phase="train", **facts):
    facts = {"phase": phase, "heartbeats": heartbeats} | facts
    path.write_text(str(facts).replace("'", '"'))


def test_one_worker_that_gets_on_is_enough_since_the_others_wait_for_it(told):
    look, paths, seen = told
    look(*range(60), before=lambda second: alive(paths[1], second))
    assert seen


def test_when_all_stand_still_each_is_named_with_where_it_stands(told):
    look, paths, _ = told
    alive(paths[0], 7, step=11, total_steps=40)
    alive(paths[1], 7, "evaluate_before")
    each = r"worker 0 .*\btrain, step 12 of 40, worker 1 .*\bevaluate_before"
    with pytest.raises(HangTimeout, match=rf"\b11 s \(MNRL_HANG_TIMEOUT=10s\): {each}; "):
        look(*range(14))


@pytest.mark.parametrize("phase", ["load", "export"])
def test_what_makes_no_sign_of_life_may_take_ten_times_as_long_but_not_for_ever(told, phase):
    look, paths, _ = told
    look(*range(100))
    alive(paths[0], 1, phase)
    look(*range(100, 200))
    with pytest.raises(HangTimeout, match=rf"worker 0 .*\b{phase}, worker 1 .*\bstart\b"):
        look(*range(200, 220))


def test_a_machine_that_slept_is_no_hang(told):
    look, paths, _ = told
    alive(paths[0], 1)
    look(1, 2, 9000, 9001)


def test_who_hangs_prints_where_it_stands(monkeypatch):
    monkeypatch.setattr(watchdog, "PRINTING_SECONDS", 2.0)
    code = (
        "import faulthandler, signal, time; faulthandler.register(signal.SIGUSR1); print(1, flush=True); time.sleep(99)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker.stdout.readline()
    watchdog.dump_stacks([worker.pid])
    worker.send_signal(signal.SIGKILL)
    assert "line 1 in <module>" in worker.communicate()[1]


def test_a_heartbeat_is_written_at_once_when_something_new_begins_and_seldom_after(tmp_path, monkeypatch):
    path = tmp_path / "heartbeat.json"
    monkeypatch.setenv(heartbeat.FILE, str(path))
    enter_phase(Phase.LOAD)
    enter_phase(Phase.TRAIN, step=0, total_steps=3)
    heartbeat.heartbeat(step=1)
    assert last_heartbeat(path)["step"] == 0
    time.sleep(heartbeat.SECONDS_BETWEEN_WRITES)
    heartbeat.heartbeat(loss=0.5)
    found = last_heartbeat(path)
    assert {name: found[name] for name in ("phase", "step", "total_steps", "loss")} == {
        "phase": "train",
        "step": 1,
        "total_steps": 3,
        "loss": 0.5,
    }
    enter_phase(Phase.SAVE)
    assert last_heartbeat(path)["phase"] == "save"
