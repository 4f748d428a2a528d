"""Parsing of URIs and model names."""

import pytest

from mnrl_job.errors import SettingsError
from mnrl_job.storage import is_hub_id, is_remote, open_store, split_revision
from mnrl_job.storage.uri import bucket_and_prefix, local_path


@pytest.mark.parametrize("name", ["s3://bucket/foo@v2", "file:///models/foo@v2", "./foo@v2", "/foo@v2", "~/foo@v2"])
def test_an_at_sign_in_a_path_or_uri_is_no_revision(name):
    assert not is_hub_id(name)
    assert split_revision(name) == (name, "")


def test_an_at_sign_in_an_existing_folder_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_revision("models/foo@v2") == ("models/foo", "v2")
    (tmp_path / "models" / "foo@v2").mkdir(parents=True)
    assert split_revision("models/foo@v2") == ("models/foo@v2", "")


@pytest.mark.parametrize(("name", "split"), [("a/b@v2", ("a/b", "v2")), ("a/b", ("a/b", "")), ("b@v2", ("b", "v2"))])
def test_the_revision_of_a_hub_id_follows_an_at_sign(name, split):
    assert is_hub_id(name)
    assert split_revision(name) == split


POINT = "arn:aws:s3:us-east-1:123456789012:accesspoint"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b/", ("bucket", "a/b")),
        ("S3://bucket/A/b", ("bucket", "A/b")),
        ("s3://bucket/set [v1]/a,b", ("bucket", "set [v1]/a,b")),
        (f"s3://{POINT}/name/a/b", (f"{POINT}/name", "a/b")),
        (f"S3://{POINT}:name/a", (f"{POINT}:name", "a")),
        (f"s3://{POINT}/name", (f"{POINT}/name", "")),
        (
            "s3://arn:aws-cn:s3-outposts:cn-north-1:123456789012:outpost/op-1/accesspoint/name/a",
            ("arn:aws-cn:s3-outposts:cn-north-1:123456789012:outpost/op-1/accesspoint/name", "a"),
        ),
    ],
)
def test_access_points_and_uppercase_schemes_are_parsed(uri, parts):
    assert is_remote(uri)
    assert bucket_and_prefix(uri, "MNRL_OUTPUT") == parts


def test_an_uppercase_file_scheme_is_parsed(tmp_path):
    assert local_path(f"FILE://{tmp_path}", "MNRL_OUTPUT") == tmp_path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://arn:aws:s3:::bucket/a", "s3://BUCKET/PREFIX"),
        ("arn:aws:s3:::bucket/a", "s3://BUCKET/PREFIX"),
        (f"{POINT}/name", "s3://arn:aws:s3:REGION"),
        ("s3:/bucket/a", "s3://BUCKET/PREFIX"),
        ("S3:bucket/a", "s3://BUCKET/PREFIX"),
        ("s3a://bucket/a", "; write s3://bucket/a"),
        ("S3N://bucket/a", "; write s3://bucket/a"),
        ("https://bucket.s3.amazonaws.com/a", "AWS_ENDPOINT_URL"),
    ],
)
def test_other_notations_of_a_bucket_are_rejected_with_the_supported_one(uri, expected):
    with pytest.raises(SettingsError, match=r"^MNRL_OUTPUT: ") as caught:
        open_store(uri, "MNRL_OUTPUT")
    assert expected in str(caught.value)


def test_requests_to_an_access_point_use_its_host(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s" * 8)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store, seen = open_store(f"s3://{POINT}/name/runs", "MNRL_OUTPUT"), []

    class Sent(Exception):
        pass

    def stop(request, **_):
        seen.append(request.url)
        raise Sent

    store.client.meta.events.register("before-send.s3", stop)
    with pytest.raises(Sent):
        store.stat("r1/_SUCCESS")
    assert seen == ["https://name-123456789012.s3-accesspoint.us-east-1.amazonaws.com/runs/r1/_SUCCESS"]
