"""It is a hang when no worker makes progress, whatever the clock and a suspended machine do."""

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
    """The time of a watchdog."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        pass


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Poll at given seconds for hangs of 10 s; the heartbeat files of two workers; what `on_heartbeat` received."""
    clock, received = Clock(), []
    monkeypatch.setattr(watchdog, "time", clock)
    paths = [tmp_path / "0.json", tmp_path / "1.json"]
    watchdog_ = Watchdog(
        lambda: {f"worker {rank}": last_heartbeat(path) for rank, path in enumerate(paths)}, 10, received.append
    )

    def poll_at(*seconds, before=str):
        for second in seconds:
            clock.now = float(second)
            before(second)
            watchdog_.poll()

    return poll_at, paths, received


def write_heartbeat(path, beats, phase="train", **facts):
    facts = {"phase": phase, "heartbeats": beats} | facts
    path.write_text(str(facts).replace("'", '"'))


def test_it_is_no_hang_while_one_worker_makes_progress(watched):
    poll_at, paths, received = watched
    poll_at(*range(60), before=lambda second: write_heartbeat(paths[1], second))
    assert received


def test_a_hang_names_each_worker_with_its_phase(watched):
    poll_at, paths, _ = watched
    write_heartbeat(paths[0], 7, step=11, total_steps=40)
    write_heartbeat(paths[1], 7, "evaluate_before")
    each = r"worker 0 .*\btrain, step 12 of 40, worker 1 .*\bevaluate_before"
    with pytest.raises(HangTimeout, match=rf"\b11 s \(MNRL_HANG_TIMEOUT=10s\): {each}; "):
        poll_at(*range(14))


@pytest.mark.parametrize("phase", ["load", "export"])
def test_a_phase_without_heartbeats_may_take_ten_times_as_long(watched, phase):
    poll_at, paths, _ = watched
    poll_at(*range(100))
    write_heartbeat(paths[0], 1, phase)
    poll_at(*range(100, 200))
    with pytest.raises(HangTimeout, match=rf"worker 0 .*\b{phase}, worker 1 .*\bstart\b"):
        poll_at(*range(200, 220))


def test_a_suspended_machine_is_not_a_hang(watched):
    poll_at, paths, _ = watched
    write_heartbeat(paths[0], 1)
    poll_at(1, 2, 9000, 9001)


def test_the_stacks_of_a_hung_worker_are_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watchdog, "DUMP_SECONDS", 2.0)
    code = (
        "import faulthandler, signal, sys, time; faulthandler.register(signal.SIGUSR1, open(sys.argv[1], 'w'));"
        "print(1, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code, tmp_path / "heartbeat-0.stacks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        worker.stdout.readline()
        watchdog.dump_stacks([worker.pid], tmp_path)
        worker.kill()
    (message,) = caplog.messages
    assert "line 1 in <module>" in message


def test_a_heartbeat_is_written_at_once_in_a_new_phase_and_twice_a_second_after(tmp_path, monkeypatch):
    path = tmp_path / "beat.json"
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
