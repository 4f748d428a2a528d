"""One publisher at a time on every store; an expired lease is taken over, a renewed one is not."""

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

# Opens the store named by the first argument.
OPEN_STORE = """
import os, sys, time
from mnrl_job.errors import JobError
from mnrl_job.runs import publish_lease
from mnrl_job.storage import open_store
publish_lease.FIRST_PAUSE_SECONDS, publish_lease.LONGEST_PAUSE_SECONDS = 0.05, 0.2
store = open_store(sys.argv[1], "MNRL_OUTPUT", "path")
"""
LOOP = """
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for _ in range(3):
    with publish_lease.acquire_lease(store) as lease:
        os.write(log, b"in\\n")
        with lease.guard_write():
            time.sleep(0.1)
        os.write(log, b"out\\n")
"""
HOLD = """
with publish_lease.acquire_lease(store, float(sys.argv[2])) as lease:
    print("holds", flush=True)
    time.sleep(60)
"""
HOLD_THEN_CHECK = """
with publish_lease.acquire_lease(store, float(sys.argv[2])) as lease:
    print("holds", flush=True)
    try:
        for _ in range(600):
            time.sleep(0.1)
            with lease.guard_write():
                pass
    except JobError as error:
        print("refused:", error, flush=True)
"""
pytestmark = pytest.mark.usefixtures("no_backoff")
ELSEWHERE = ["another-boot", "pid:[1]", "1", "1"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(publish_lease, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(publish_lease, "LONGEST_PAUSE_SECONDS", 0.2)


def uri_of(store):
    return str(store.root) if hasattr(store, "root") else f"s3://{store.bucket}/{store.prefix}"


def held(store):
    return [entry.key for entry in store.list_objects(f"{publish_lease.FOLDER}/")]


def write_foreign_lease(store, key):
    """Write or renew the lease of a publisher on another machine."""
    store.write(f"{publish_lease.FOLDER}/{key}", json.dumps({"process": ELSEWHERE, "at": time.time_ns()}).encode())


def seconds_to_acquire(store, seconds=publish_lease.LEASE_SECONDS):
    started = time.monotonic()
    with acquire_lease(store, seconds):
        assert len(held(store)) == 1
        return time.monotonic() - started


def start(store, code, *arguments):
    """Start a process and wait until it holds the lease."""
    process = run_python(OPEN_STORE + code, uri_of(store), *arguments)
    assert process.stdout.readline() == "holds\n"
    return process


def end(process):
    process.kill()
    return process.communicate()[0]


def test_the_lease_on_a_free_store_is_acquired_at_once_and_released_without_a_trace(store):
    with acquire_lease(store) as lease:
        with lease.guard_write():
            store.write("a", b"x")
        assert len(held(store)) == 1
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_a_lease_is_released_when_publishing_fails(store):
    with pytest.raises(StorageError, match="disk full"), acquire_lease(store):
        raise StorageError("disk full")
    assert not list(store.list_objects())


def test_threads_never_hold_leases_at_the_same_time(store):
    inside, most, failures = [], [], []

    def publish():
        try:
            for _ in range(2):
                with acquire_lease(store) as lease:
                    inside.append(lease)
                    most.append(len(inside))
                    with lease.guard_write():
                        time.sleep(0.05)
                    inside.remove(lease)
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


def test_processes_never_hold_leases_at_the_same_time(store, tmp_path):
    processes = [run_python(OPEN_STORE + LOOP, uri_of(store), tmp_path / "log") for _ in range(3)]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert (tmp_path / "log").read_text() == "in\nout\n" * 9
    assert not list(store.list_objects())


def test_the_lease_of_a_killed_process_on_this_machine_is_taken_over_at_once(store):
    end(start(store, HOLD, 60))
    assert len(held(store)) == 1
    assert seconds_to_acquire(store) < 10
    assert not held(store)


def test_the_lease_of_another_machine_is_taken_over_only_after_it_expires(store):
    write_foreign_lease(store, "z")
    assert 1 < seconds_to_acquire(store, seconds=1) < 10
    assert not held(store)


def test_a_lease_renewed_by_another_machine_is_never_taken_over(store):
    ended = threading.Event()

    def renew():
        while not ended.wait(0.1):
            write_foreign_lease(store, "0")

    write_foreign_lease(store, "0")
    other, waiting = (
        threading.Thread(target=target, args=arguments, daemon=True)
        for target, arguments in [(renew, ()), (seconds_to_acquire, (store, 1.2))]
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


def test_a_lease_is_renewed_as_long_as_it_is_held(store):
    with acquire_lease(store, 4) as lease:
        (key,) = held(store)
        first = store.stat(key).version
        time.sleep(0.8)
        with lease.guard_write():
            assert store.stat(key).version != first


def test_a_holder_that_cannot_renew_writes_no_more_and_leaves_no_lease(server, proxy, reach, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_at(reach(proxy))
    with acquire_lease(store, 2) as lease:
        proxy.faults = [Fault("status", "PUT .*leases", times=1_000_000, status=503)]
        with lease.guard_write():
            time.sleep(1.1)
        with pytest.raises(StorageError, match=r"^MNRL_OUTPUT: .*\b1 s\b"):  # noqa: SIM117
            with lease.guard_write():
                pytest.fail("may write")
    assert not server.objects(store.prefix)


@pytest.mark.usefixtures("server")
def test_a_holder_that_misses_one_renewal_continues(proxy, reach, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with acquire_lease(open_at(reach(proxy)), 4) as lease:
        proxy.faults = [Fault("status", "PUT .*leases", times=1, status=503)]
        time.sleep(1.2)
        assert proxy.faults[0].times == 0
        with lease.guard_write():
            pass


def test_a_released_lease_permits_no_write(store):
    with acquire_lease(store) as lease:
        pass
    with pytest.raises(StorageError, match=r"^MNRL_OUTPUT: .* released the lease"), lease.guard_write():
        pytest.fail("may write")


def test_a_lease_is_not_released_during_a_write(store):
    with acquire_lease(store) as lease:
        writing, done = threading.Event(), threading.Event()

        def write():
            with lease.guard_write():
                writing.set()
                done.wait(10)
                store.write("a", b"x")

        threading.Thread(target=write).start()
        writing.wait(10)
        threading.Timer(0.3, done.set).start()
    assert [entry.key for entry in store.list_objects()] == ["a"]


def test_a_holder_that_was_suspended_for_longer_than_the_lease_writes_no_more(store):
    frozen = start(store, HOLD_THEN_CHECK, 1.5)
    frozen.send_signal(signal.SIGSTOP)
    with acquire_lease(store, 1.5):
        frozen.send_signal(signal.SIGCONT)
        output, _ = frozen.communicate(timeout=120)
        assert output.startswith("refused:")
        assert "could not renew the lease" in output
        assert len(held(store)) == 1


def test_waiting_can_be_interrupted_and_leaves_no_lease(store):
    def stop(*_):
        raise KeyboardInterrupt

    write_foreign_lease(store, "0")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt), acquire_lease(store):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert held(store) == [f"{publish_lease.FOLDER}/0"]


def test_an_error_while_writing_the_lease_is_raised(proxy, reach):
    proxy.faults = [Fault("status", "PUT .*leases", times=1_000_000, status=500)]
    store = open_at(reach(proxy))
    with pytest.raises(StorageError, match="PutObject"), acquire_lease(store):
        pytest.fail("was held")


def test_an_error_while_waiting_is_raised_and_the_own_lease_deleted(server, proxy, reach):
    store = open_at(reach(proxy))
    write_foreign_lease(store, "z")
    proxy.faults = [Fault("status", "GET .*list-type", times=1_000_000, status=403)]
    with pytest.raises(DeniedError, match="ListObjectsV2"), acquire_lease(store):
        pytest.fail("was held")
    assert list(server.objects(store.prefix)) == [f"{store.prefix}/.leases/z"]


def test_a_damaged_lease_expires_like_any_other(store):
    for number, data in enumerate([b"", b"{", b"[]", b'{"process": null}', b'{"process": ["a"]}', os.urandom(100)]):
        store.write(f"{publish_lease.FOLDER}/{number}", data)
    assert 1 < seconds_to_acquire(store, seconds=1) < 10


@pytest.mark.parametrize("seconds", [2, publish_lease.LEASE_SECONDS])
def test_waiting_continues_when_a_lease_is_renewed_or_released_while_it_is_read(server, proxy, reach, seconds):
    waiting, holding = open_at(reach(proxy)), open_at(reach(server))
    proxy.faults = [Fault("delay", "GET .*leases/[0-9a-f]", seconds=0.6)]
    with acquire_lease(holding, seconds):
        acquired_after: list[float] = []
        taken = threading.Thread(target=lambda: acquired_after.append(seconds_to_acquire(waiting, seconds)))
        taken.start()
        while proxy.faults[0].times and taken.is_alive():
            time.sleep(0.02)  # until it looks, however slow this machine is
        time.sleep(0.1 if seconds == publish_lease.LEASE_SECONDS else 1)
    taken.join(60)
    assert proxy.faults[0].times == 0
    assert acquired_after
