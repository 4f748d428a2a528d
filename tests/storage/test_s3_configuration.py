"""S3 settings: credentials, region, endpoint, URIs."""

import pytest

from mnrl_job.errors import DeniedError, SettingsError, StorageError
from mnrl_job.storage import open_store
from mnrl_job.storage.base import read_bytes
from mnrl_job.system.secrets import redact
from tests.servers.s3 import Server, free_port, open_at, put
from tests.storage.operations import OPERATIONS

pytestmark = pytest.mark.usefixtures("no_backoff")


def test_aws_region_takes_precedence_over_aws_default_region(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    store = open_store("s3://bucket/prefix", "MNRL_OUTPUT")
    assert (store.client.meta.region_name, store.client.meta.endpoint_url) == (
        "eu-central-1",
        "https://s3.eu-central-1.amazonaws.com",
    )


def test_a_wrong_secret_is_denied(rclone, reach, monkeypatch):
    uri = reach(rclone)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for name in ("list", "stat", "write", "create", "delete"):
        with pytest.raises(DeniedError, match=r"SignatureDoesNotMatch|: 403"):
            OPERATIONS[name](open_at(uri))


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_session_token"])
def test_a_credential_with_a_line_break_in_the_credentials_file_is_denied_and_not_shown(
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


def test_missing_credentials_are_denied_with_the_variables_to_set(uri, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DeniedError, match=r"AWS_ACCESS_KEY_ID.*AWS_SECRET_ACCESS_KEY.*AWS_PROFILE"):
        open_at(uri).stat("a")


def test_an_endpoint_that_refuses_connections_is_a_storage_error(reach, monkeypatch):
    uri = reach(nobody := Server("none", free_port()))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StorageError, match=f"^MNRL_OUTPUT: .*{nobody.endpoint}") as caught:
        list(open_at(uri).list_objects())
    assert caught.value.code == 69


def test_an_unknown_profile_is_a_settings_error(monkeypatch, reach, moto):
    uri = reach(moto)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SettingsError, match=r"nobody.*AWS_PROFILE") as caught:
        open_at(uri)
    assert caught.value.code == 64


@pytest.mark.parametrize("uri", ["s3://user:hunter2@bucket/run", "s3://user:hun/ter2@bucket", "s3://hunter2@bucket"])
def test_credentials_in_a_uri_are_rejected_and_not_shown(uri):
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: .*AWS_ACCESS_KEY_ID") as caught:
        open_store(uri, "MNRL_OUTPUT")
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///run"])
def test_a_uri_without_a_bucket_is_rejected(uri):
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: .*s3://BUCKET/PREFIX"):
        open_store(uri, "MNRL_OUTPUT")


def test_slashes_around_a_prefix_do_not_matter(server, uri):
    put(server, uri, {"a/b": b"x"})
    for written in (uri, f"{uri}/", f"{uri}//"):
        assert [entry.key for entry in open_at(written).list_objects()] == ["a/b"]
        assert read_bytes(open_at(written), "a/b") == b"x"


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_MAX_ATTEMPTS", "abc"), ("AWS_MAX_ATTEMPTS", "-1"), ("AWS_ENDPOINT_URL", "127.0.0.1:99")],
)
def test_an_invalid_aws_variable_is_a_settings_error(moto, reach, monkeypatch, name, value):
    uri = reach(moto)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="AWS_"):
        list(open_at(uri).list_objects())


def test_requester_pays_is_sent_only_if_configured(moto, reach, monkeypatch):
    uri, told = reach(moto), []
    for payer in ("requester", ""):
        monkeypatch.setenv("AWS_REQUEST_PAYER", payer)
        place = open_at(uri)
        place.client.meta.events.register(
            "before-send.s3", lambda request, **_: told.append(request.headers.get("x-amz-request-payer"))
        )
        for name in ("list", "stat"):
            OPERATIONS[name](place)
    assert told == [b"requester", b"requester", None, None]
