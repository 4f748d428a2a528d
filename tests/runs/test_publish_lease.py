"""One publisher at a time on every store; what a dead one left is taken over, what a slow one holds is not."""

import json
import os
import signal
import threading
import time

import pytest

from mnrl_job.errors import DeniedError, StorageError
from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish_lease import acquire_lease
from tests.program import run_python
from tests.servers.proxy import Fault
from tests.servers.s3 import open_at

# Opens the store named by the first argument and claims it.
CLAIM = """
import os, sys, time
from mnrl_job.errors import JobError
from mnrl_job.runs import publish_lease as claims
from mnrl_job.storage import open_store
claims.FIRST_PAUSE_SECONDS, claims.LONGEST_PAUSE_SECONDS = 0.05, 0.2
store = open_store(sys.argv[1], "MNRL_OUTPUT", "path")
"""
LOOP = """
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for _ in range(3):
    with claims.acquire_lease(store) as claim:
        os.write(log, b"in\\n")
        with claim.guard_write():
            time.sleep(0.1)
        os.write(log, b"out\\n")
"""
HOLD = """
with claims.acquire_lease(store, float(sys.argv[2])) as claim:
    print("holds", flush=True)
    time.sleep(60)
"""
HOLD_THEN_CHECK = """
with claims.acquire_lease(store, float(sys.argv[2])) as claim:
    print("holds", flush=True)
    try:
        for _ in range(600):
            time.sleep(0.1)
            with claim.guard_write():
                pass
    except JobError as error:
        print("refused:", error, flush=True)
"""
pytestmark = pytest.mark.usefixtures("no_pauses")
ELSEWHERE = ["another-boot", "pid:[1]", "1", "1"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(publish_lease, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(publish_lease, "LONGEST_PAUSE_SECONDS", 0.2)


def uri_of(store):
    return str(store.root) if hasattr(store, "root") else f"s3://{store.bucket}/{store.prefix}"


def held(store):
    return [entry.key for entry in store.list_objects(f"{publish_lease.FOLDER}/")]


def claim_of_another_machine(store, key):
    """What a publisher elsewhere writes, each time anew."""
    store.write(f"{publish_lease.FOLDER}/{key}", json.dumps({"process": ELSEWHERE, "at": time.time_ns()}).encode())


def seconds_to_claim(store, lease=publish_lease.LEASE):
    began = time.monotonic()
    with acquire_lease(store, lease):
        assert len(held(store)) == 1
        return time.monotonic() - began


def start(store, code, *arguments):
    """A process that claims the store, and does."""
    process = run_python(CLAIM + code, uri_of(store), *arguments)
    assert process.stdout.readline() == "holds\n"
    return process


def end(process):
    process.kill()
    return process.communicate()[0]


def test_a_free_store_is_held_at_once_and_released_without_a_trace(store):
    with acquire_lease(store) as claim:
        with claim.guard_write():
            store.write("a", b"x")
        assert len(held(store)) == 1
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_a_claim_is_released_when_publishing_fails(store):
    with pytest.raises(StorageError, match="disk full"), acquire_lease(store):
        raise StorageError("disk full")
    assert not list(store.list_objects())


def test_threads_never_hold_a_store_at_the_same_time(store):
    inside, most, failures = [], [], []

    def publish():
        try:
            for _ in range(2):
                with acquire_lease(store) as claim:
                    inside.append(claim)
                    most.append(len(inside))
                    with claim.guard_write():
                        time.sleep(0.05)
                    inside.remove(claim)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert most == [1] * 6
    assert not list(store.list_objects())


def test_processes_never_hold_a_store_at_the_same_time(store, tmp_path):
    processes = [run_python(CLAIM + LOOP, uri_of(store), tmp_path / "log") for _ in range(3)]
    for process in processes:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert (tmp_path / "log").read_text() == "in\nout\n" * 9
    assert not list(store.list_objects())


def test_a_claim_of_a_process_that_was_killed_here_is_taken_over_at_once(store):
    end(start(store, HOLD, 60))
    assert len(held(store)) == 1
    assert seconds_to_claim(store) < 10
    assert not held(store)


def test_a_claim_of_another_machine_is_taken_over_only_after_the_lease(store):
    claim_of_another_machine(store, "z")
    assert 1 < seconds_to_claim(store, lease=1) < 10
    assert not held(store)


def test_a_claim_that_another_machine_renews_is_never_taken_over(store):
    ended = threading.Event()

    def renew():
        while not ended.wait(0.1):
            claim_of_another_machine(store, "0")

    claim_of_another_machine(store, "0")
    other, waiting = (
        threading.Thread(target=target, args=arguments, daemon=True)
        for target, arguments in [(renew, ()), (seconds_to_claim, (store, 1.2))]
    )
    other.start()
    waiting.start()
    waiting.join(2)
    still_waiting = waiting.is_alive()
    ended.set()
    other.join()
    assert still_waiting
    store.delete(f"{publish_lease.FOLDER}/0")
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_claim_is_renewed_as_long_as_it_is_held(store):
    with acquire_lease(store, 4) as claim:
        (key,) = held(store)
        first = store.stat(key).version
        time.sleep(0.8)
        with claim.guard_write():
            assert store.stat(key).version != first


def test_a_holder_that_cannot_renew_writes_no_more_and_leaves_no_claim(server, proxy, reach, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_at(reach(proxy))
    with acquire_lease(store, 2) as claim:
        proxy.faults = [Fault("status", "PUT .*claims", times=1_000_000, status=503)]
        with claim.guard_write():
            time.sleep(1.1)
        with pytest.raises(StorageError, match=r"^MNRL_OUTPUT: .*\b1 s\b"):  # noqa: SIM117
            with claim.guard_write():
                pytest.fail("may write")
    assert not server.objects(store.prefix)


@pytest.mark.usefixtures("server")
def test_a_holder_that_misses_one_renewal_goes_on(proxy, reach, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with acquire_lease(open_at(reach(proxy)), 4) as claim:
        proxy.faults = [Fault("status", "PUT .*claims", times=1, status=503)]
        time.sleep(1.2)
        assert proxy.faults[0].times == 0
        with claim.guard_write():
            pass


def test_a_released_claim_permits_no_write(store):
    with acquire_lease(store) as claim:
        pass
    with pytest.raises(StorageError, match=r"^MNRL_OUTPUT: .* any more"), claim.guard_write():
        pytest.fail("may write")


def test_a_claim_is_not_released_amid_a_write(store):
    with acquire_lease(store) as claim:
        writing, done = threading.Event(), threading.Event()

        def write():
            with claim.guard_write():
                writing.set()
                done.wait(10)
                store.write("a", b"x")

        threading.Thread(target=write).start()
        writing.wait(10)
        threading.Timer(0.3, done.set).start()
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_a_holder_that_was_frozen_for_longer_than_the_lease_writes_no_more(store):
    frozen = start(store, HOLD_THEN_CHECK, 1.5)
    frozen.send_signal(signal.SIGSTOP)
    with acquire_lease(store, 1.5):
        frozen.send_signal(signal.SIGCONT)
        said, _ = frozen.communicate(timeout=120)
        assert said.startswith("refused:")
        assert "could not renew the claim" in said
        assert len(held(store)) == 1


def test_who_waits_can_be_stopped_and_leaves_no_claim(store):
    def stop(*_):
        raise KeyboardInterrupt

    claim_of_another_machine(store, "0")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt), acquire_lease(store):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert held(store) == [f"{publish_lease.FOLDER}/0"]


def test_a_claim_that_cannot_be_written_is_told(proxy, reach):
    proxy.faults = [Fault("status", "PUT .*claims", times=1_000_000, status=500)]
    store = open_at(reach(proxy))
    with pytest.raises(StorageError, match="PutObject"), acquire_lease(store):
        pytest.fail("was held")


def test_a_store_that_fails_while_we_wait_is_told_and_our_claim_is_taken_back(server, proxy, reach):
    store = open_at(reach(proxy))
    claim_of_another_machine(store, "z")
    proxy.faults = [Fault("status", "GET .*list-type", times=1_000_000, status=403)]
    with pytest.raises(DeniedError, match="ListObjectsV2"), acquire_lease(store):
        pytest.fail("was held")
    assert list(server.objects(store.prefix)) == [f"{store.prefix}/.claims/z"]


def test_a_damaged_claim_is_waited_for_like_any_other(store):
    for number, data in enumerate([b"", b"{", b"[]", b'{"process": null}', b'{"process": ["a"]}', os.urandom(100)]):
        store.write(f"{publish_lease.FOLDER}/{number}", data)
    assert 1 < seconds_to_claim(store, lease=1) < 10


@pytest.mark.parametrize("lease", [2, publish_lease.LEASE])
def test_who_looks_at_a_claim_that_is_renewed_or_released_this_moment_waits_on(server, proxy, reach, lease):
    waiting, holding = open_at(reach(proxy)), open_at(reach(server))
    proxy.faults = [Fault("delay", "GET .*claims/[0-9a-f]", seconds=0.6)]
    with acquire_lease(holding, lease):
        claimed_after: list[float] = []
        taken = threading.Thread(target=lambda: claimed_after.append(seconds_to_claim(waiting, lease)))
        taken.start()
        while proxy.faults[0].times and taken.is_alive():
            time.sleep(0.02)  # until it looks, however slow this machine is
        time.sleep(0.1 if lease == publish_lease.LEASE else 1)
    taken.join(60)
    assert proxy.faults[0].times == 0
    assert claimed_after
