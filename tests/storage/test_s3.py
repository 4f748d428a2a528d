"""S3 over the wire: what may pass is tried again, what is denied or missing is told as that."""

import re

import pytest

from mnrl_job.errors import DeniedError, NotFound, SettingsError, StorageError
from mnrl_job.storage import open_store, s3
from mnrl_job.storage.base import read_bytes
from mnrl_job.system.secrets import redact
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import Server, free_port, objects, open_at, put

pytestmark = pytest.mark.usefixtures("no_pauses")
ALWAYS = 1_000_000
LARGE = bytes(range(256)) * (1 << 14)
OPERATIONS = {
    "list": lambda store: list(store.list_objects()),
    "look up": lambda store: store.stat("a"),
    "read": lambda store: read_bytes(store, "a"),
    "write": lambda store: store.write("b", b"x"),
    "create": lambda store: store.create("c", b"x"),
    "delete": lambda store: store.delete("d"),
    "sweep": lambda store: store.remove_incomplete(),
}


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


def asked(proxy, method, key):
    """The spans that were asked for, `""` for a whole object; or as many of other requests."""
    return [re.sub(r"^\S+ \S+ ?", "", seen) for seen in proxy.seen if re.match(rf"{method} /bucket/\w+/{key}\b", seen)]


def test_the_region_is_the_one_that_every_sdk_of_aws_reads(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    store = open_store("s3://bucket/prefix", "MNRL_OUTPUT")
    assert (store.client.meta.region_name, store.client.meta.endpoint_url) == (
        "eu-central-1",
        "https://s3.eu-central-1.amazonaws.com",
    )


@pytest.mark.parametrize(("kind", "status"), [("reset", 0), ("status", 500), ("status", 503)])
def test_what_may_pass_is_tried_again(server, store, proxy, kind, status):
    for operation in OPERATIONS.values():
        proxy.faults = [Fault(kind, times=3, status=status)]
        operation(store)
        assert proxy.faults[0].times == 0
    assert objects(server, f"s3://bucket/{store.prefix}") == {"a": b"content", "b": b"x", "c": b"x"}


def test_a_write_whose_answer_was_lost_is_done_once(server, store, proxy):
    for name in ("write", "create", "delete"):
        proxy.faults = [Fault("lose")]
        OPERATIONS[name](store)
        assert proxy.faults[0].times == 0
    assert objects(server, f"s3://bucket/{store.prefix}") == {"a": b"content", "b": b"x", "c": b"x"}


def test_a_server_that_stays_busy_is_told_as_storage_that_a_retry_may_help(store, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = open_at(f"s3://bucket/{store.prefix}")
    proxy.faults = [Fault("status", times=ALWAYS, status=503)]
    for operation in OPERATIONS.values():
        proxy.seen.clear()
        with pytest.raises(StorageError, match="MNRL_OUTPUT: s3://bucket/") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (69, True)
        assert len(proxy.seen) == 2


def test_what_is_denied_is_told_at_once_and_never_taken_for_missing_or_empty(store, proxy):
    proxy.faults = [Fault("status", times=ALWAYS, status=403)]
    for name, operation in OPERATIONS.items():
        proxy.seen.clear()
        if name == "sweep":  # who may not look for leftovers may still publish
            operation(store)
            continue
        with pytest.raises(DeniedError, match=r"^MNRL_OUTPUT: s3://bucket/.*\bs3:[A-Z]") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (77, False)
        assert len(proxy.seen) == 1


def test_an_object_that_may_be_seen_but_not_read_is_denied(store, proxy):
    proxy.faults = [Fault("status", "^GET", times=ALWAYS, status=403)]
    with pytest.raises(DeniedError, match=r"/a: .*\(GetObject: AccessDenied, "):
        read_bytes(store, "a")


def test_a_cut_body_is_resumed_where_it_was_cut_and_not_repeated(large, proxy):
    proxy.faults = [Fault("truncate", "GET .*large", times=2)]
    assert read_bytes(large, "large") == LARGE
    first, *resumed = asked(proxy, "GET", "large")
    assert first == ""
    starts = [int(re.fullmatch(rf"bytes=(\d+)-{len(LARGE) - 1}", span)[1]) for span in resumed]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]


def test_a_body_that_crawls_is_given_up_and_resumed(large, proxy, monkeypatch):
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.3)
    proxy.faults = [Fault("crawl", "GET .*large", seconds=0.02)]
    assert read_bytes(large, "large") == LARGE
    assert proxy.faults[0].times == 0
    _, resumed = asked(proxy, "GET", "large")
    assert 0 < int(re.match(r"bytes=(\d+)-", resumed)[1]) < 1000


def test_a_body_that_takes_long_but_moves_is_left_alone(store, proxy, monkeypatch):
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(s3, "SLOWEST_BYTES_PER_SECOND", 5)
    proxy.faults = [Fault("crawl", "GET .*/a", seconds=0.05)]
    assert read_bytes(store, "a") == b"content"
    assert asked(proxy, "GET", "a") == [""]


def test_credentials_that_expired_are_denied_also_where_a_head_cannot_say_so(store, proxy):
    proxy.faults = [Fault("status", times=ALWAYS, status=400)]
    for operation in OPERATIONS.values():
        with pytest.raises(DeniedError, match="ExpiredToken") as caught:
            operation(store)
        assert (caught.value.code, caught.value.retry_helps) == (77, False)


def test_a_bad_request_that_only_a_head_is_would_be_one_again(store, proxy):
    """As for an object that is encrypted with a customer's key."""
    proxy.faults = [Fault("status", "HEAD", times=ALWAYS, status=400)]
    with pytest.raises(SettingsError, match=r"/a: .*HeadObject: 400.*encrypted"):
        store.stat("a")
    assert sum("max-keys=1" in seen for seen in proxy.seen) == 1


def test_a_body_that_is_cut_again_and_again_at_the_same_byte_is_given_up(store, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    store = open_at(f"s3://bucket/{store.prefix}")
    proxy.faults = [Fault("truncate", "GET .*/a", times=ALWAYS)]
    with pytest.raises(StorageError, match="/a: "):
        read_bytes(store, "a")


def test_a_cut_that_makes_headway_is_not_counted_against_the_attempts(large, proxy, monkeypatch):
    monkeypatch.setattr(s3, "CHUNK", 1 << 10)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    large = open_at(f"s3://bucket/{large.prefix}")
    proxy.faults = [Fault("truncate", "GET .*large", times=6)]
    assert read_bytes(large, "large") == LARGE
    assert proxy.faults[0].times == 0


def test_an_object_that_was_replaced_between_listing_and_reading_is_not_read(moto, reach):
    uri = reach(moto)
    put(moto, uri, {"a": b"before"})
    entry = open_at(uri).stat("a")
    put(moto, uri, {"a": b"after!"})
    with pytest.raises(StorageError, match="/a: changed"):
        list(open_at(uri).read(entry))


def test_a_body_that_was_cut_is_never_resumed_from_another_object(moto, reach):
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
def test_a_missing_bucket_is_missing(name):
    with pytest.raises(NotFound, match=r"^MNRL_OUTPUT: s3://nowhere/x") as caught:
        OPERATIONS[name](open_at("s3://nowhere/x"))
    assert caught.value.code == 66


def test_a_wrong_secret_is_denied(rclone, reach, monkeypatch):
    uri = reach(rclone)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for name in ("list", "look up", "write", "create", "delete"):
        with pytest.raises(DeniedError, match=r"SignatureDoesNotMatch|: 403"):
            OPERATIONS[name](open_at(uri))


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_session_token"])
def test_a_credential_of_a_file_that_goes_on_over_a_line_break_is_denied_and_not_shown(
    moto, reach, monkeypatch, tmp_path, name
):
    uri = reach(moto)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", name: "planted-planted\n  planted-planted"}
    lines = [f"{key} = {value}" for key, value in keys.items()]
    (tmp_path / "credentials").write_text("\n".join(["[default]", *lines]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for operation in OPERATIONS.values():
        with pytest.raises(DeniedError, match=r"^MNRL_OUTPUT: .*line break") as caught:
            operation(open_at(uri))
        assert "planted" not in redact(str(caught.value))


def test_no_credentials_at_all_are_told_with_what_to_set(uri, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DeniedError, match=r"AWS_ACCESS_KEY_ID.*AWS_SECRET_ACCESS_KEY.*AWS_PROFILE"):
        open_at(uri).stat("a")


def test_an_endpoint_where_nobody_listens_is_told_as_storage(reach, monkeypatch):
    uri = reach(nobody := Server("none", free_port()))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StorageError, match=f"^MNRL_OUTPUT: .*{nobody.endpoint}") as caught:
        list(open_at(uri).list_objects())
    assert caught.value.code == 69


def test_an_unknown_profile_is_a_setting_to_mend(monkeypatch, reach, moto):
    uri = reach(moto)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SettingsError, match=r"nobody.*AWS_PROFILE") as caught:
        open_at(uri)
    assert caught.value.code == 64


@pytest.mark.parametrize("uri", ["s3://user:hunter2@bucket/run", "s3://user:hun/ter2@bucket", "s3://hunter2@bucket"])
def test_credentials_in_a_uri_are_refused_and_never_shown(uri):
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: .*AWS_ACCESS_KEY_ID") as caught:
        open_store(uri, "MNRL_OUTPUT")
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///run"])
def test_a_uri_without_a_bucket_is_refused(uri):
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: .*s3://BUCKET/PREFIX"):
        open_store(uri, "MNRL_OUTPUT")


def test_slashes_around_a_prefix_do_not_matter(server, uri):
    put(server, uri, {"a/b": b"x"})
    for written in (uri, f"{uri}/", f"{uri}//"):
        assert [entry.key for entry in open_at(written).list_objects()] == ["a/b"]
        assert read_bytes(open_at(written), "a/b") == b"x"


def test_what_consoles_make_for_folders_is_no_object(moto, reach):
    uri = reach(moto)
    put(moto, uri, {"": b"", "a/": b"", "a/b": b"x", "empty": b""})
    assert sorted(entry.key for entry in open_at(uri).list_objects()) == ["a/b", "empty"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_MAX_ATTEMPTS", "abc"), ("AWS_MAX_ATTEMPTS", "-1"), ("AWS_ENDPOINT_URL", "127.0.0.1:99")],
)
def test_a_malformed_aws_variable_is_a_bad_setting(moto, reach, monkeypatch, name, value):
    uri = reach(moto)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="AWS_"):
        list(open_at(uri).list_objects())


@pytest.fixture(scope="module")
def locked(moto):
    """A bucket with Object Lock, which asks for a checksum of whatever is put there."""
    client = moto.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    client.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=rule)
    return "s3://locked/run"


@pytest.mark.usefixtures("small_pieces")
def test_a_bucket_with_object_lock_takes_files_of_every_size_and_lets_them_be_deleted(moto, reach, locked, tmp_path):
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


def test_every_body_is_sent_with_its_md5(moto, reach, tmp_path, small_pieces):
    (tmp_path / "large").write_bytes(LARGE)
    place, sent = open_at(reach(moto)), []
    place.client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append((request.method, request.headers.get("Content-MD5")))
    )
    place.write("a", b"x")
    place.create("b", b"x")
    place.create("large", tmp_path / "large")
    puts = [md5 for method, md5 in sent if method == "PUT"]
    assert len(puts) == 2 + len(LARGE) // (small_pieces // 2)
    assert all(puts)


def test_who_says_so_pays_for_requests(moto, reach, monkeypatch):
    uri, told = reach(moto), []
    for payer in ("requester", ""):
        monkeypatch.setenv("AWS_REQUEST_PAYER", payer)
        place = open_at(uri)
        place.client.meta.events.register(
            "before-send.s3", lambda request, **_: told.append(request.headers.get("x-amz-request-payer"))
        )
        for name in ("list", "look up"):
            OPERATIONS[name](place)
    assert told == [b"requester", b"requester", None, None]


def test_an_archived_object_is_told_to_be_restored(moto, reach):
    uri = reach(moto)
    moto.client().put_object(Bucket="bucket", Key=f"{uri.rpartition('/')[2]}/a", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(NotFound, match=r"/a: .*restore-object"):
        read_bytes(open_at(uri), "a")
