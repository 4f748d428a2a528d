"""Inputs in a folder and on S3: the same files are found, and errors name what the user named."""

import gzip
import json
import logging
import os

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.sources import fetch, locate, locate_model, meant
from mnrl_job.data.tables import read_table
from mnrl_job.errors import DataError, DeniedError, NotFound, SettingsError
from tests.servers.proxy import Fault
from tests.servers.s3 import BUCKET, prefix_of, put

GOOD = b'{"anchor": "a", "positive": "b"}\n'
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


def found(uri, variable="MNRL_TRAIN_DATA"):
    return locate(Source("s", uri), variable, "path")


def got(uri, folder):
    return fetch(found(uri), folder)


@pytest.fixture(params=["moto", "rclone", "folder"])
def place(request, reach, tmp_path):
    """A place that holds KEYS and HIDDEN, each object holding its own key."""
    files = {key: key.encode() for key in (*KEYS, *HIDDEN)}
    if request.param == "folder":
        for key, content in files.items():
            (tmp_path / "place" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "place" / key).write_bytes(content)
        return str(tmp_path / "place")
    server = request.getfixturevalue(request.param)
    put(server, reach(server), files)
    return reach(server)


def test_files_folders_prefixes_and_globs_name_the_same_files_everywhere(place, tmp_path):
    for pattern, keys in FOUND.items():
        fetched = got(f"{place}/{pattern}", tmp_path / "in")
        assert [file.read_bytes().decode() for file in fetched.files] == sorted(keys), pattern
        assert list(fetched.files) == sorted(fetched.files)


def test_what_is_not_there_is_told_with_the_setting_that_named_it(place):
    for pattern in ("a", "c/", "b/x.jsonl", "b/*.parquet", "*/c", "b/[x-z]*"):
        with pytest.raises(NotFound) as caught:
            found(f"{place}/{pattern}", "MNRL_EVAL_DATA")
        assert str(caught.value).startswith(f"MNRL_EVAL_DATA: {place}/{pattern} ")
        assert caught.value.code == 66


def test_an_object_wins_over_a_prefix_of_its_name(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"a": b"object", "a/b": b"below"})
    assert [file.read_bytes() for file in got(f"{uri}/a", tmp_path).files] == [b"object"]
    assert [file.read_bytes() for file in got(f"{uri}/a/", tmp_path).files] == [b"below"]


def test_nothing_is_fetched_before_it_is_asked_for(server, proxy, reach, tmp_path):
    uri = reach(proxy)
    put(server, uri, {"a.jsonl": GOOD, "b.jsonl": GOOD})
    located = found(uri)
    assert located.bytes == 2 * len(GOOD)
    assert not [seen for seen in proxy.seen if ".jsonl" in seen]
    assert len(fetch(located, tmp_path).files) == 2


def test_inputs_are_found_again_the_next_time(server, proxy, reach, tmp_path):
    uri = reach(proxy)
    put(server, uri, {"in/a.jsonl": GOOD, "in/b.jsonl": GOOD})
    first = got(f"{uri}/in", tmp_path)
    proxy.seen.clear()
    assert got(f"{uri}/in", tmp_path).files == first.files
    assert not [seen for seen in proxy.seen if seen.startswith("GET") and ".jsonl" in seen]


def test_sources_of_one_name_in_two_places_are_kept_apart(server, uri, tmp_path):
    put(server, uri, {"one/a.jsonl": b"one", "two/a.jsonl": b"two"})
    fetched = [got(f"{uri}/{name}/a.jsonl", tmp_path) for name in ("one", "two")]
    assert [one.files[0].read_bytes() for one in fetched] == [b"one", b"two"]


def test_what_may_not_be_read_is_denied_and_not_missing(server, proxy, reach):
    uri = reach(proxy)
    put(server, uri, {"a/b.jsonl": GOOD})
    for name in ("a/b.jsonl", "a", "a/*.jsonl", "nothing"):
        proxy.faults = [Fault("status", times=100, status=403)]
        with pytest.raises(DeniedError, match=r"^MNRL_TRAIN_DATA: s3://bucket/"):
            found(f"{uri}/{name}")


@pytest.mark.parametrize("pattern", ["in/bad.jsonl", "in", "in/*.jsonl", "**/bad.jsonl"])
def test_a_bad_row_is_named_by_the_object_and_line_the_user_knows(server, uri, tmp_path, pattern):
    put(server, uri, {"in/bad.jsonl": GOOD + b'{"anchor": "a", "positive": " "}\n'})
    with pytest.raises(DataError) as caught:
        read_pairs((got(f"{uri}/{pattern}", tmp_path),), Settings(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(f"{uri}/in/bad.jsonl:2: empty")
    pairs = read_pairs((got(f"{uri}/{pattern}", tmp_path),), Settings(max_bad_row_ratio=0.5), tmp_path / "pairs.arrow")
    assert [row.where for row in pairs.bad_rows] == [f"{uri}/in/bad.jsonl:2"]
    assert pairs.sources[0].uri == f"{uri}/{pattern}"


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("x.jsonl", b'{"title": "a"}\n', "{}/x.jsonl: no anchor column"),
        ("x.docx", b"PK", "{}/x.docx: "),
        ("x.jsonl.gz", gzip.compress(GOOD, mtime=0)[:-9], "{}/x.jsonl.gz: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_object(server, uri, tmp_path, key, content, said):
    put(server, uri, {key: content})
    with pytest.raises(DataError) as caught:
        read_pairs((got(uri, tmp_path),), Settings(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(said.format(uri))
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def as_another_user(tmp_path):
    """A folder of ours, seen by a user whose it is not; root may read everything."""
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):  # with xdist there is one more
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(12345)
    yield tmp_path
    os.seteuid(os.getuid())


@pytest.mark.parametrize("shut", ["inputs", "inputs/model.safetensors"])
def test_a_file_or_folder_that_this_user_may_not_read_is_denied_by_name(tmp_path, request, shut):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "modules.json").write_bytes(GOOD)
    (tmp_path / "inputs" / "model.safetensors").write_bytes(b"")
    (tmp_path / "inputs").chmod(0o755)  # whatever the umask
    (tmp_path / shut).chmod(0)
    request.getfixturevalue("as_another_user")
    said = f"{tmp_path / 'inputs' / 'model.safetensors'}; "
    with pytest.raises(DeniedError, match=rf"^MNRL_TRAIN_DATA: .*\b12345\b.* {said}"):
        locate(Source("train", str(tmp_path / "inputs" / "model.safetensors")), "MNRL_TRAIN_DATA")
    if shut != "inputs":
        with pytest.raises(DeniedError, match=rf"^MNRL_BASE_MODEL: .*\b12345\b.* {said}"):
            locate_model(str(tmp_path / "inputs"))


@pytest.mark.parametrize("shut", ["", "more", "lost+found", ".snapshot"])
def test_a_folder_that_this_user_may_not_list_is_passed_over_only_where_it_holds_no_data(tmp_path, request, shut):
    for folder in (tmp_path / "inputs", tmp_path / "inputs" / "more", tmp_path / "inputs" / shut):
        folder.mkdir(exist_ok=True)
        (folder / "x.jsonl").write_bytes(GOOD)
        folder.chmod(0o755)
        (folder / "x.jsonl").chmod(0o644)
    (tmp_path / "inputs" / shut).chmod(0)
    request.getfixturevalue("as_another_user")
    source = Source("train", str(tmp_path / "inputs"))
    if shut in ("", "more"):
        with pytest.raises(DeniedError, match=rf"^MNRL_TRAIN_DATA: .*\b12345\b.* {tmp_path / 'inputs' / shut}; "):
            locate(source, "MNRL_TRAIN_DATA")
    else:
        assert len(locate(source, "MNRL_TRAIN_DATA").files) == 2


def test_links_to_folders_are_followed_and_every_folder_is_read_once(tmp_path):
    for folder in ("in/a", "elsewhere/deep", "elsewhere/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.jsonl").write_bytes(GOOD)
    (tmp_path / "in" / "linked").symlink_to("../elsewhere")
    (tmp_path / "in" / "linked again").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to("../in")
    (tmp_path / "in" / "a" / "itself").symlink_to(".")
    (tmp_path / "in" / "nowhere").symlink_to("gone")
    names = [file.relative_to(tmp_path).as_posix() for file in found(str(tmp_path / "in")).files]
    assert names == ["in/a/x.jsonl", "in/linked/deep/x.jsonl"]


def test_a_volume_of_kubernetes_config_maps_gives_each_file_once(tmp_path):
    """As the kubelet writes it: what is shown are links through `..data`, which is moved on to each new version."""
    for name in ("pairs.jsonl", "sub/more.jsonl"):
        (tmp_path / "..2026_11_29" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "..2026_11_29" / name).write_bytes(GOOD)
        (tmp_path / name.partition("/")[0]).symlink_to(f"..data/{name.partition('/')[0]}")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    names = [file.relative_to(tmp_path).as_posix() for file in found(str(tmp_path)).files]
    assert names == ["pairs.jsonl", "sub/more.jsonl"]


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_a_name_that_is_too_long_for_any_file_is_missing(name):
    with pytest.raises(NotFound, match=f"^MNRL_BASE_MODEL: .*{name.rstrip('/')}"):
        locate_model(name)
    with pytest.raises(NotFound, match=f"^MNRL_TRAIN_DATA: .*{name.rstrip('/')}"):
        found(name)


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path):
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.jsonl")).write_bytes(GOOD)
    with pytest.raises(DataError, match=r"^MNRL_TRAIN_DATA: .*b'.*/gr\\xf6\\xdfe\.jsonl'"):
        found(str(tmp_path))


def test_a_hub_id_may_have_a_revision_with_slashes_but_a_path_is_none():
    assert locate_model("owner/name@refs/pr/1") is None
    with pytest.raises(NotFound, match=r"^MNRL_BASE_MODEL: models/owner/name@v2 "):
        locate_model("models/owner/name@v2")


def test_an_eval_set_on_s3_is_read_like_one_in_a_folder(server, uri, tmp_path):
    files = {
        "queries.jsonl": b'{"_id": "q", "text": "one"}\n',
        "corpus.jsonl.gz": gzip.compress(b'{"_id": "d", "text": "two"}\n'),
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq\td\t1\n",
    }
    single = {"queries": {"q": "one"}, "corpus": {"d": "two"}, "relevant_docs": {"q": ["d"]}}
    put(server, uri, {f"beir/{key}": content for key, content in files.items()})
    put(server, uri, {"set.json": json.dumps(single).encode()})
    for name in ("beir", "beir/", "set.json"):
        eval_set = read_evalset(got(f"{uri}/{name}", tmp_path), tmp_path / "out" / name)
        assert read_table(eval_set.folder / "corpus.arrow").to_pylist() == [{"id": "d", "text": "two"}]


def test_a_fault_of_an_eval_set_is_named_by_its_object(server, uri, tmp_path):
    put(server, uri, {"set/queries.jsonl": b'{"_id": "q", "text": ""}\n', "set/corpus.jsonl": b""})
    with pytest.raises(DataError) as caught:
        read_evalset(got(f"{uri}/set", tmp_path), tmp_path / "out")
    assert str(caught.value).startswith(f"{uri}/set: qrels/test.tsv ")
    put(server, uri, {"set/qrels/test.tsv": b"query-id\tcorpus-id\tscore\n"})
    with pytest.raises(DataError) as caught:
        read_evalset(got(f"{uri}/set", tmp_path), tmp_path / "out")
    assert str(caught.value).startswith(f"{uri}/set/queries.jsonl:1: empty (text of 'q')")


def test_a_model_below_a_prefix_must_be_whole(server, uri, tmp_path):
    put(server, uri, {"good/model.safetensors": b"w", "good/config.json": b"{}", "hollow/config.json": b"{}"})
    put(server, uri, {"bare/model.safetensors": b"w"})
    model = fetch(locate_model(f"{uri}/good", "path"), tmp_path)
    assert sorted(path.name for path in model.root.iterdir() if path.is_file()) == ["config.json", "model.safetensors"]
    for weights in ("adapter_model.safetensors", "adapter_model.bin"):
        put(server, uri, {f"{weights}/adapter_config.json": b"{}", f"{weights}/{weights}": b"w"})
        assert len(locate_model(f"{uri}/{weights}", "path").entries) == 2
    for name, said in [("hollow", r"\*\.safetensors"), ("bare", "modules.json"), ("none", "")]:
        with pytest.raises(NotFound, match=f"^MNRL_BASE_MODEL: {uri}/{name} .*{said}"):
            locate_model(f"{uri}/{name}", "path")


def test_an_object_that_is_gone_is_not_read_from_an_earlier_fetch(server, uri, tmp_path):
    text = '{{"_id": "{}", "text": "{}"}}\n'.format
    judgements = b"query-id\tcorpus-id\tscore\nq\td\t1\n"
    put(server, uri, {"set/qrels/test.tsv": judgements, "set/queries.jsonl": text("q", "x").encode()})
    put(server, uri, {"set/corpus.jsonl": text("d", "OLD").encode()})
    got(f"{uri}/set", tmp_path)
    server.client().delete_object(Bucket=BUCKET, Key=f"{prefix_of(uri)}set/corpus.jsonl")
    put(server, uri, {"set/corpus.jsonl.gz": gzip.compress(text("d", "NEW").encode())})
    eval_set = read_evalset(got(f"{uri}/set", tmp_path), tmp_path / "out")
    assert read_table(eval_set.folder / "corpus.arrow").to_pylist() == [{"id": "d", "text": "NEW"}]


def test_files_that_differ_are_named_by_their_objects(server, uri, tmp_path, caplog):
    put(server, uri, {"a.jsonl": GOOD, "b.jsonl": b'{"anchor": "a", "positive": "b", "negative": "c"}\n'})
    with caplog.at_level(logging.INFO, "mnrl_job"):
        read_pairs((got(uri, tmp_path),), Settings(), tmp_path / "pairs.arrow")
    assert f"rows have 0 ({uri}/a.jsonl:1) to 1 ({uri}/b.jsonl:1) negatives" in caplog.text


def test_training_data_in_beir_layout_is_read_and_its_faults_named_by_their_objects(server, uri, tmp_path):
    files = {
        "beir/README.md": b"not data",
        "beir/queries.jsonl": b'{"_id": "q", "text": "one"}\n',
        "beir/corpus.jsonl.gz": gzip.compress(b'{"_id": "d", "text": "two"}\n{"_id": "e", "text": ""}\n'),
        "beir/qrels/train.tsv": b"query-id\tcorpus-id\tscore\nq\td\t1\nq\te\t1\n",
    }
    put(server, uri, files)
    fetched = got(f"{uri}/beir", tmp_path)
    pairs = read_pairs((fetched,), Settings(max_bad_row_ratio=0.5), tmp_path / "pairs.arrow")
    assert read_table(pairs.path).to_pylist() == [{"anchor": "one", "positive": "two"}]
    where, detail = f"{uri}/beir/qrels/train.tsv:3", f"text of 'e' at {uri}/beir/corpus.jsonl.gz:2"
    assert pairs.bad_rows == (BadRow(where, "empty", detail),)
    with pytest.raises(DataError) as caught:
        read_pairs((fetched,), Settings(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(f"{where}: empty ({detail}); 1 of 2 rows")


def test_a_weight_goes_with_its_source(server, uri, tmp_path):
    put(server, uri, {"a.jsonl": GOOD})
    fetched = fetch(locate(Source("s", f"{uri}/a.jsonl", 2.5), "MNRL_TRAIN_DATA", "path"), tmp_path)
    assert fetched.weight == 2.5


def test_brackets_in_globs_mean_the_same_on_s3(moto, reach):
    uri = reach(moto)
    put(moto, uri, dict.fromkeys(("a.x", "a-x", "axx", "a/x", "n[1].jsonl"), b""))
    wanted = {
        "a[.-]x": ["a-x", "a.x"],
        "a[!b]x": ["a-x", "a.x", "axx"],
        "n[1].jsonl": ["n[1].jsonl"],
        "a?x": ["a-x", "a.x", "axx"],
    }
    for pattern, keys in wanted.items():
        assert [entry.key for entry in found(f"{uri}/{pattern}").entries] == keys


def test_an_eval_set_may_be_named_by_a_glob_on_s3(server, uri, tmp_path):
    content = {"queries": {"q": "a"}, "corpus": {"d": "b"}, "relevant_docs": {"q": ["d"]}}
    put(server, uri, {"ev/faq.json": json.dumps(content).encode()})
    assert read_evalset(got(f"{uri}/ev/f*.json", tmp_path), tmp_path / "out").queries == 1


def test_a_uri_without_a_bucket_is_refused(reach, moto):
    reach(moto)
    with pytest.raises(SettingsError, match=r"^MNRL_TRAIN_DATA: .*s3://BUCKET/PREFIX"):
        found("s3:///*.json")


@pytest.mark.parametrize("kind", ["moto", "folder"])
def test_a_name_with_wild_characters_or_a_comma_is_first_what_it_says(kind, request, reach, tmp_path):
    keys = ["set [v1]/a.jsonl", "set v/b.jsonl", "s?t/c.jsonl", "st*r/d.jsonl", "star/e.jsonl", "x,y/f.jsonl", "g[1]"]
    place = str(tmp_path / "place")
    if kind == "folder":
        for key in keys:
            (tmp_path / "place" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "place" / key).write_bytes(key.encode())
    else:
        server = request.getfixturevalue(kind)
        place = reach(server)
        put(server, place, {key: key.encode() for key in keys})
    wanted = {
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
    for pattern, expected in wanted.items():
        sources = Settings(train_data=f"{place}/{pattern}").train_data
        (source,) = meant(sources, "MNRL_TRAIN_DATA", "path")
        fetched = fetch(locate(source, "MNRL_TRAIN_DATA", "path"), tmp_path / "in")
        assert [file.read_bytes().decode() for file in fetched.files] == expected, pattern


def test_commas_separate_what_is_not_there_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b.jsonl", "x, y.jsonl"):
        (tmp_path / name).write_bytes(GOOD)
    for text, uris in {"a,b.jsonl": ["a", "b.jsonl"], "x, y.jsonl": ["x, y.jsonl"], "a,z": ["a", "z"]}.items():
        sources = Settings(train_data=text).train_data
        assert [one.uri for one in meant(sources, "MNRL_TRAIN_DATA")] == uris


def test_a_folder_of_a_date_is_a_path_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "date=2026-01-01").mkdir()
    (tmp_path / "date=2026-01-01" / "part-0.jsonl").write_bytes(GOOD)
    for text in ("date=2026-01-01/part-0.jsonl", "date=2026-01-01", "date=2026-*/*.jsonl", "d=date=2026-01-01/"):
        (source,) = Settings(train_data=text).train_data
        assert len(locate(source, "MNRL_TRAIN_DATA").files) == 1
    (source,) = Settings(train_data="date=2026-01-02/part-0.jsonl").train_data
    with pytest.raises(NotFound, match=r"^MNRL_TRAIN_DATA: .*name=uri.* \./date=2026-01-02/part-0\.jsonl"):
        locate(source, "MNRL_TRAIN_DATA")


def test_a_scheme_has_no_case(moto, reach, tmp_path):
    uri = reach(moto)
    put(moto, uri, {"in/a.jsonl": GOOD})
    for pattern in ("in", "in/", "in/a.jsonl", "in/*.jsonl"):
        assert len(got(f"S3{uri[2:]}/{pattern}", tmp_path).files) == 1
