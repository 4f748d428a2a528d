"""Worker processes that compute signatures give the same result as one process, and never outlive a run."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication import minhash
from mnrl_job.deduplication.minhash import Column, compute_signatures
from mnrl_job.deduplication.text_similarity import normalize, text_id
from tests.deduplication.rows import LONG
from tests.examples import write_pairs
from tests.program import ROOT, clean_environment, command


def test_several_processes_compute_the_same_signatures_as_one(tmp_path, monkeypatch):
    """Eight chunks are enough for a pool; the result must not depend on the number of cores."""
    monkeypatch.setattr(minhash, "TEXTS_PER_CHUNK", 50)
    texts = [f"{LONG} {i}" for i in range(8 * 50 - 7)]
    write_columns(tmp_path / "texts.arrow", text=texts)
    column = [Column(tmp_path / "texts.arrow", "text")]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    several = compute_signatures(column, 0.9, tmp_path / "several")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    one = compute_signatures(column, 0.9, tmp_path / "one")
    for name in ("ids", "bands", "pairs", "starts"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name))
    assert one.ids.tolist() == [list(text_id(normalize(text))) for text in texts]


SCRIPT = """
import sys
from pathlib import Path
from mnrl_job.deduplication.minhash import Column, compute_signatures
if __name__ == "__main__":
    print("signing", flush=True)
    compute_signatures([Column(Path(sys.argv[1]), "text")] * 50, 0.9, Path(sys.argv[2]))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core starts no worker processes")
def test_worker_processes_exit_if_their_parent_is_killed(tmp_path):
    """In a separate script, as spawned processes import the main module."""
    write_columns(tmp_path / "texts.arrow", text=[f"{LONG} {i}" for i in range(20_000)])
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "texts.arrow", tmp_path / "signed"]
    parent = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE)
    parent.stdout.readline()

    def worker_ids():
        return pgrep("-P", str(parent.pid), "-f", "spawn_main")

    wait_until(worker_ids)
    process_ids = worker_ids()
    assert process_ids
    parent.kill()
    parent.wait()
    wait_until(lambda: not set(process_ids) & set(pgrep("-f", "spawn_main")))
    assert not set(process_ids) & set(pgrep("-f", "spawn_main"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core starts no worker processes")
def test_killed_worker_processes_fail_the_run_even_while_sending_a_result(tmp_path):
    """While the parent is stopped, results wait in the pipe, where a long one would be truncated."""
    write_columns(tmp_path / "texts.arrow", text=[f"{LONG} {i}" for i in range(20_000)])
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "texts.arrow", tmp_path / "signed"]
    parent = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE, text=True)

    def worker_ids():
        return pgrep("-P", str(parent.pid), "-f", "spawn_main")

    try:
        wait_until(lambda: worker_ids() and all(map(ignores_interrupts, worker_ids())))
        parent.send_signal(signal.SIGSTOP)
        process_ids = worker_ids()
        wait_until(lambda: not any(map(is_working, process_ids)))
        for process_id in process_ids:
            os.kill(int(process_id), signal.SIGKILL)
        parent.send_signal(signal.SIGCONT)
        _, errors = parent.communicate(timeout=120)
    finally:
        parent.kill()
    assert "InternalError: a process computing text signatures was killed; the machine may be out of memory" in errors


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core starts no worker processes")
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_while_computing_signatures_leaves_no_process_behind(tmp_path, good, signal_):
    """Like a terminal or a batch system, signal all processes of the group."""
    write_pairs(tmp_path / "pairs.jsonl", ((f"question {i}", f"{LONG} {i} {LONG} {i + 1}") for i in range(90_000)))
    run = subprocess.Popen(
        command("train"),
        cwd=tmp_path,
        env=clean_environment(**good),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    process_ids: list[str] = []

    def ready():
        process_ids[:] = pgrep("-P", str(run.pid), "-f", "spawn_main")
        return process_ids and all(map(ignores_interrupts, process_ids))

    wait_until(ready)
    os.killpg(run.pid, signal_)
    _, errors = run.communicate(timeout=120)
    assert process_ids
    assert "Traceback" not in errors, "helpers leave the answer to the parent"
    assert run.returncode == 75, errors
    # A signal while the pool is made leaves semaphores, which Python's resource tracker warns of after us.
    lines = [line for line in errors.strip().splitlines() if "resource_tracker" not in line]
    assert f"stopped on request ({signal_.name}); nothing was published" in lines[-1]
    assert not set(process_ids) & set(pgrep("-f", "spawn_main"))


def ignores_interrupts(pid):
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return bool(int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16) & 1 << signal.SIGINT - 1)
    return False


def is_working(pid, seconds=0.5):
    """Whether a process uses CPU time."""
    before = cpu_ticks(pid)
    time.sleep(seconds)
    return cpu_ticks(pid) > before


def cpu_ticks(pid):
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11])


def pgrep(*arguments):
    return subprocess.run(["pgrep", *arguments], capture_output=True, text=True).stdout.split()


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
