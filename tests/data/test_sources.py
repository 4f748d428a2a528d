"""Files, folders, prefixes and globs name the same inputs in a folder and on S3."""

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.data.sources import fetch, locate, locate_model, rejoin_commas
from mnrl_job.errors import NotFound, SettingsError
from tests.data.located import GOOD, fetch_uri, locate_uri
from tests.servers.s3 import put

KEYS = ["ab", "b/a.jsonl", "b/c/a.jsonl", "b/c/b.csv", "b/c/d/a.jsonl", "bb/a.jsonl", "ü +&#.jsonl"]


BELOW_B = KEYS[1:5]


HIDDEN = ["b/.x.jsonl", "b/_x.jsonl", "b/.git/a.jsonl", "b/c/_SUCCESS", "b/_logs/c/a.jsonl"]


# What each pattern finds among them.
FOUND = {
    "ab": ["ab"],
    "b/c/a.jsonl": ["b/c/a.jsonl"],
    "b/.x.jsonl": ["b/.x.jsonl"],
    "ü +&#.jsonl": ["ü +&#.jsonl"],
    "": KEYS,
    "b": BELOW_B,
    "b/": BELOW_B,
    "b/c": BELOW_B[1:],
    "b/*": ["b/a.jsonl"],
    "b/*.jsonl": ["b/a.jsonl"],
    "b/?.jsonl": ["b/a.jsonl"],
    "b/c/[a-b].*": ["b/c/a.jsonl", "b/c/b.csv"],
    "b/c/[!b].*": ["b/c/a.jsonl"],
    "b/*/*.jsonl": ["b/c/a.jsonl"],
    "b*/a.jsonl": ["b/a.jsonl", "bb/a.jsonl"],
    "b/**/*.jsonl": ["b/a.jsonl", "b/c/a.jsonl", "b/c/d/a.jsonl"],
    "b/**": BELOW_B,
    "**/a.jsonl": ["b/a.jsonl", "b/c/a.jsonl", "b/c/d/a.jsonl", "bb/a.jsonl"],
    "a?": ["ab"],
}


@pytest.fixture(params=["moto", pytest.param("rclone", marks=pytest.mark.slow), "folder"])
def storage(request, reach, tmp_path):
    """A folder or bucket with KEYS and HIDDEN, each object holding its own key."""
    files = {key: key.encode() for key in (*KEYS, *HIDDEN)}
    if request.param == "folder":
        for key, content in files.items():
            (tmp_path / "place" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "place" / key).write_bytes(content)
        return str(tmp_path / "place")
    server = request.getfixturevalue(request.param)
    put(server, reach(server), files)
    return reach(server)


def test_files_folders_prefixes_and_globs_name_the_same_files_everywhere(storage, tmp_path):
    for pattern, keys in FOUND.items():
        fetched = fetch_uri(f"{storage}/{pattern}", tmp_path / "in")
        assert [file.read_bytes().decode() for file in fetched.files] == sorted(keys), pattern
        assert list(fetched.files) == sorted(fetched.files)


def test_a_missing_source_is_reported_with_its_setting(storage):
    for pattern in ("a", "c/", "b/x.jsonl", "b/*.parquet", "*/c", "b/[x-z]*"):
        with pytest.raises(NotFound) as caught:
            locate_uri(f"{storage}/{pattern}", "MNRL_EVAL_DATA")
        assert str(caught.value).startswith(f"MNRL_EVAL_DATA: {storage}/{pattern} ")
        assert caught.value.code == 66


def test_an_object_wins_over_a_prefix_of_its_name(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"a": b"object", "a/b": b"below"})
    assert [file.read_bytes() for file in fetch_uri(f"{uri}/a", tmp_path).files] == [b"object"]
    assert [file.read_bytes() for file in fetch_uri(f"{uri}/a/", tmp_path).files] == [b"below"]


def test_a_hub_id_may_have_a_revision_with_slashes_but_no_further_slash():
    assert locate_model("owner/name@refs/pr/1") is None
    with pytest.raises(NotFound, match=r"^MNRL_BASE_MODEL: models/owner/name@v2 "):
        locate_model("models/owner/name@v2")


def test_a_model_below_a_prefix_must_have_weights_and_configuration(server, uri, tmp_path):
    put(server, uri, {"good/model.safetensors": b"w", "good/config.json": b"{}", "hollow/config.json": b"{}"})
    put(server, uri, {"bare/model.safetensors": b"w"})
    model = fetch(locate_model(f"{uri}/good", "path"), tmp_path)
    assert sorted(path.name for path in model.root.iterdir() if path.is_file()) == ["config.json", "model.safetensors"]
    for weights in ("adapter_model.safetensors", "adapter_model.bin"):
        put(server, uri, {f"{weights}/adapter_config.json": b"{}", f"{weights}/{weights}": b"w"})
        assert len(locate_model(f"{uri}/{weights}", "path").entries) == 2
    for name, message in [("hollow", r"\*\.safetensors"), ("bare", "modules.json"), ("none", "")]:
        with pytest.raises(NotFound, match=f"^MNRL_BASE_MODEL: {uri}/{name} .*{message}"):
            locate_model(f"{uri}/{name}", "path")


def test_brackets_in_globs_mean_the_same_on_s3(moto, reach):
    uri = reach(moto)
    put(moto, uri, dict.fromkeys(("a.x", "a-x", "axx", "a/x", "n[1].jsonl"), b""))
    expected_keys = {
        "a[.-]x": ["a-x", "a.x"],
        "a[!b]x": ["a-x", "a.x", "axx"],
        "n[1].jsonl": ["n[1].jsonl"],
        "a?x": ["a-x", "a.x", "axx"],
    }
    for pattern, keys in expected_keys.items():
        assert [entry.key for entry in locate_uri(f"{uri}/{pattern}").entries] == keys


def test_a_uri_without_a_bucket_is_refused(reach, moto):
    reach(moto)
    with pytest.raises(SettingsError, match=r"^MNRL_TRAIN_DATA: .*s3://BUCKET/PREFIX"):
        locate_uri("s3:///*.json")


@pytest.mark.parametrize("kind", ["moto", "folder"])
def test_wildcards_and_commas_in_a_name_are_first_taken_literally(kind, request, reach, tmp_path):
    keys = ["set [v1]/a.jsonl", "set v/b.jsonl", "s?t/c.jsonl", "st*r/d.jsonl", "star/e.jsonl", "x,y/f.jsonl", "g[1]"]
    storage = str(tmp_path / "place")
    if kind == "folder":
        for key in keys:
            (tmp_path / "place" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "place" / key).write_bytes(key.encode())
    else:
        server = request.getfixturevalue(kind)
        storage = reach(server)
        put(server, storage, {key: key.encode() for key in keys})
    expected_keys = {
        "set [v1]": keys[:1],
        "set [v1]/": keys[:1],
        "set [v1]/*.jsonl": keys[:1],
        "set [v]/*.jsonl": keys[1:2],
        "s?t": keys[2:3],
        "st*r/": keys[3:4],
        "st*r/?.jsonl": keys[3:4],
        "sta*/*": keys[4:5],
        "x,y/": keys[5:6],
        "x,y/*.jsonl": keys[5:6],
        "g[1]": keys[6:],
    }
    for pattern, expected in expected_keys.items():
        sources = Settings(train_data=f"{storage}/{pattern}").train_data
        (source,) = rejoin_commas(sources, "MNRL_TRAIN_DATA", "path")
        fetched = fetch(locate(source, "MNRL_TRAIN_DATA", "path"), tmp_path / "in")
        assert [file.read_bytes().decode() for file in fetched.files] == expected, pattern


def test_commas_separate_sources_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b.jsonl", "x, y.jsonl"):
        (tmp_path / name).write_bytes(GOOD)
    for text, uris in {"a,b.jsonl": ["a", "b.jsonl"], "x, y.jsonl": ["x, y.jsonl"], "a,z": ["a", "z"]}.items():
        sources = Settings(train_data=text).train_data
        assert [one.uri for one in rejoin_commas(sources, "MNRL_TRAIN_DATA")] == uris


def test_a_scheme_has_no_case(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"in/a.jsonl": GOOD})
    for pattern in ("in", "in/", "in/a.jsonl", "in/*.jsonl"):
        assert len(fetch_uri(f"S3{uri[2:]}/{pattern}", tmp_path).files) == 1
