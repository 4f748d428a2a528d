"""S3 operations: transient failures are retried, interrupted reads resumed, denied and missing objects told apart."""

import re

import pytest

from mnrl_job.errors import DeniedError, NotFound, SettingsError, StorageError
from mnrl_job.storage import s3
from mnrl_job.storage.base import read_bytes
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import objects, open_at, put
from tests.storage.operations import OPERATIONS

pytestmark = pytest.mark.usefixtures("no_backoff")
ALWAYS = 1_000_000
LARGE = bytes(range(256)) * (1 << 14)


@pytest.fixture
def store(server, proxy, reach):
    uri = reach(proxy)
    put(server, uri, {"a": b"content"})
    return open_at(uri)


@pytest.fixture
def large(server, store):
    """A store with a large object."""
    put(server, f"s3://bucket/{store.prefix}", {"large": LARGE})
    return store


def requested_ranges(proxy, method, key):
    """The byte ranges requested of an object, `""` for all of it."""
    return [re.sub(r"^\S+ \S+ ?", "", seen) for seen in proxy.seen if re.match(rf"{method} /bucket/\w+/{key}\b", seen)]


@pytest.mark.parametrize(("kind", "status"), [("reset", 0), ("status", 500), ("status", 503)])
def test_transient_failures_are_retried(server, store, proxy, kind, status):
    for operation in OPERATIONS.values():
        proxy.faults = [Fault(kind, times=3, status=status)]
        operation(store)
        assert proxy.faults[0].times == 0
    assert objects(server, f"s3://bucket/{store.prefix}") == {"a": b"content", "b": b"x", "c": b"x"}


def test_a_write_whose_response_was_lost_takes_effect_once(server, store, proxy):
    for name in ("write", "create", "delete"):
        proxy.faults = [Fault("lose")]
        OPERATIONS[name](store)
        assert proxy.faults[0].times == 0
    assert objects(server, f"s3://bucket/{store.prefix}") == {"a": b"content", "b": b"x", "c": b"x"}


def test_a_server_that_stays_busy_is_a_storage_error_after_the_configured_attempts(store, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = open_at(f"s3://bucket/{store.prefix}")
    proxy.faults = [Fault("status", times=ALWAYS, status=503)]
    for operation in OPERATIONS.values():
        proxy.seen.clear()
        with pytest.raises(StorageError, match="MNRL_OUTPUT: s3://bucket/") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (69, True)
        assert len(proxy.seen) == 2


def test_denied_access_fails_at_once_and_is_not_taken_for_a_missing_object(store, proxy):
    proxy.faults = [Fault("status", times=ALWAYS, status=403)]
    for name, operation in OPERATIONS.items():
        proxy.seen.clear()
        if name == "remove incomplete":  # who may not look for leftovers may still publish
            operation(store)
            continue
        with pytest.raises(DeniedError, match=r"^MNRL_OUTPUT: s3://bucket/.*\bs3:[A-Z]") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (77, False)
        assert len(proxy.seen) == 1


def test_an_object_that_can_be_listed_but_not_read_is_denied(store, proxy):
    proxy.faults = [Fault("status", "^GET", times=ALWAYS, status=403)]
    with pytest.raises(DeniedError, match=r"/a: .*\(GetObject: AccessDenied, "):
        read_bytes(store, "a")


def test_an_interrupted_read_resumes_at_the_byte_where_it_stopped(large, proxy):
    proxy.faults = [Fault("truncate", "GET .*large", times=2)]
    assert read_bytes(large, "large") == LARGE
    first, *resumed = requested_ranges(proxy, "GET", "large")
    assert first == ""
    starts = [int(re.fullmatch(rf"bytes=(\d+)-{len(LARGE) - 1}", span)[1]) for span in resumed]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]


def test_a_stalled_read_is_aborted_and_resumed(large, proxy, monkeypatch):
    monkeypatch.setattr(s3, "STALL_SECONDS", 0.3)
    proxy.faults = [Fault("crawl", "GET .*large", seconds=0.02)]
    assert read_bytes(large, "large") == LARGE
    assert proxy.faults[0].times == 0
    _, resumed = requested_ranges(proxy, "GET", "large")
    assert 0 < int(re.match(r"bytes=(\d+)-", resumed)[1]) < 1000


def test_a_slow_read_above_the_minimum_rate_is_not_aborted(store, proxy, monkeypatch):
    monkeypatch.setattr(s3, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(s3, "MIN_BYTES_PER_SECOND", 5)
    proxy.faults = [Fault("crawl", "GET .*/a", seconds=0.05)]
    assert read_bytes(store, "a") == b"content"
    assert requested_ranges(proxy, "GET", "a") == [""]


def test_expired_credentials_are_denied_even_if_the_response_to_a_head_has_no_reason(store, proxy):
    proxy.faults = [Fault("status", times=ALWAYS, status=400)]
    for operation in OPERATIONS.values():
        with pytest.raises(DeniedError, match="ExpiredToken") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (77, False)


def test_a_400_to_head_requests_only_is_permanent(store, proxy):
    """As for an object that is encrypted with a customer's key."""
    proxy.faults = [Fault("status", "HEAD", times=ALWAYS, status=400)]
    with pytest.raises(SettingsError, match=r"/a: .*HeadObject: 400.*encrypted"):
        store.stat("a")
    assert sum("max-keys=1" in seen for seen in proxy.seen) == 1


def test_a_read_interrupted_repeatedly_at_the_same_byte_fails(store, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    store = open_at(f"s3://bucket/{store.prefix}")
    proxy.faults = [Fault("truncate", "GET .*/a", times=ALWAYS)]
    with pytest.raises(StorageError, match="/a: "):
        read_bytes(store, "a")


def test_interruptions_after_progress_do_not_count_towards_the_attempts(large, proxy, monkeypatch):
    monkeypatch.setattr(s3, "CHUNK", 1 << 10)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    large = open_at(f"s3://bucket/{large.prefix}")
    proxy.faults = [Fault("truncate", "GET .*large", times=6)]
    assert read_bytes(large, "large") == LARGE
    assert proxy.faults[0].times == 0


def test_an_object_replaced_after_its_listing_is_not_read(moto, reach):
    uri = reach(moto)
    put(moto, uri, {"a": b"before"})
    entry = open_at(uri).stat("a")
    put(moto, uri, {"a": b"after!"})
    with pytest.raises(StorageError, match="/a: changed"):
        list(open_at(uri).read(entry))


def test_an_interrupted_read_is_not_resumed_from_a_replaced_object(moto, reach):
    with proxied(moto, Fault("truncate", "GET .*/a")) as proxy:
        uri = reach(proxy)
        put(moto, uri, {"a": LARGE})
        reader = open_at(uri).read(open_at(uri).stat("a"))
        next(reader)
        put(moto, uri, {"a": LARGE[::-1]})
        with pytest.raises(StorageError, match="/a: changed"):
            list(reader)


@pytest.mark.usefixtures("uri")
@pytest.mark.parametrize("name", ["list", "write", "create"])
def test_a_missing_bucket_is_reported_as_missing(name):
    with pytest.raises(NotFound, match=r"^MNRL_OUTPUT: s3://nowhere/x") as caught:
        OPERATIONS[name](open_at("s3://nowhere/x"))
    assert caught.value.code == 66


def test_folder_placeholders_of_consoles_are_not_listed(moto, reach):
    uri = reach(moto)
    put(moto, uri, {"": b"", "a/": b"", "a/b": b"x", "empty": b""})
    assert sorted(entry.key for entry in open_at(uri).list_objects()) == ["a/b", "empty"]


@pytest.fixture(scope="module")
def locked(moto):
    """A bucket with Object Lock, which asks for a checksum of whatever is put there."""
    client = moto.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    client.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=rule)
    return "s3://locked/run"


@pytest.mark.usefixtures("small_parts")
def test_a_bucket_with_object_lock_accepts_files_of_every_size_and_their_deletion(moto, reach, locked, tmp_path):
    reach(moto)
    (tmp_path / "large").write_bytes(LARGE)
    place = open_at(locked)
    place.write("written", b"1")
    place.write("written", b"2")
    assert place.create("small", b"x")
    assert place.create("small", b"y") is None
    assert place.create("large", tmp_path / "large").size == len(LARGE)
    assert read_bytes(place, "written") == b"2"
    for entry in tuple(place.list_objects()):
        place.delete(entry.key)
    assert not list(place.list_objects())


def test_every_upload_has_a_content_md5(moto, reach, tmp_path, small_parts):
    (tmp_path / "large").write_bytes(LARGE)
    place, sent = open_at(reach(moto)), []
    place.client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append((request.method, request.headers.get("Content-MD5")))
    )
    place.write("a", b"x")
    place.create("b", b"x")
    place.create("large", tmp_path / "large")
    puts = [md5 for method, md5 in sent if method == "PUT"]
    assert len(puts) == 2 + len(LARGE) // (small_parts // 2)
    assert all(puts)


def test_an_archived_object_is_reported_with_how_to_restore_it(moto, reach):
    uri = reach(moto)
    moto.client().put_object(Bucket="bucket", Key=f"{uri.rpartition('/')[2]}/a", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(NotFound, match=r"/a: .*restore-object"):
        read_bytes(open_at(uri), "a")
