"""A run is under way as long as an attempt renews its lease there, on every store."""

import json
import time

import pytest

from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish_lease import acquire_lease, is_under_way, under_way
from tests.program import run_python
from tests.servers.proxy import Fault
from tests.servers.s3 import open_at

HOLD = """
import sys, time
from mnrl_job.runs.publish_lease import under_way
from mnrl_job.storage import open_store
with under_way(open_store(sys.argv[1], "MNRL_OUTPUT", "path")):
    print("holds", flush=True)
    time.sleep(60)
"""
pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(publish_lease, "LONGEST_PAUSE_SECONDS", 0.2)


def test_a_run_is_under_way_while_an_attempt_holds_its_lease_and_may_be_published_meanwhile(store, monkeypatch):
    monkeypatch.setattr(publish_lease, "UNDER_WAY_SECONDS", 4.0)
    assert not is_under_way(store)
    with under_way(store):
        assert is_under_way(store)
        with acquire_lease(store):
            assert is_under_way(store)
    assert not list(store.list_objects())


def test_a_run_whose_attempt_was_killed_on_this_machine_is_known_at_once_not_to_be_under_way(store):
    uri = str(store.root) if hasattr(store, "root") else f"s3://{store.bucket}/{store.prefix}"
    process = run_python(HOLD, uri)
    assert process.stdout.readline() == "holds\n"
    process.kill()
    process.communicate()
    assert len(list(store.list_objects())) == 1
    started = time.monotonic()
    assert not is_under_way(store)
    assert time.monotonic() - started < publish_lease.UNDER_WAY_SECONDS / 4
    assert not list(store.list_objects())


def test_a_run_whose_attempt_ended_on_another_machine_is_under_way_until_its_lease_expires(store, monkeypatch):
    monkeypatch.setattr(publish_lease, "UNDER_WAY_SECONDS", 1.0)
    elsewhere = {"process": ["another-boot", "pid:[1]", "1", "1"], "at": time.time_ns()}
    store.write(f"{publish_lease.UNDER_WAY}/a", json.dumps(elsewhere).encode())
    started = time.monotonic()
    assert not is_under_way(store)
    assert 1 < time.monotonic() - started < 20


@pytest.mark.usefixtures("server")
def test_a_run_is_under_way_again_after_an_outage_of_the_storage(proxy, reach, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(publish_lease, "UNDER_WAY_SECONDS", 4.0)
    store = open_at(reach(proxy))
    with under_way(store):
        proxy.faults = [Fault("status", "PUT .*leases", times=1_000_000, status=503)]
        time.sleep(2.5)  # a lease to publish would have lapsed
        proxy.faults = []
        assert is_under_way(store)
