"""Sources on S3: what is downloaded, and errors that name the user's objects instead of local copies."""

import gzip
import json
import logging

import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.read_evalset import read_evalset
from mnrl_job.data.read_pairs import ReadOptions, read_pairs
from mnrl_job.data.sources import fetch, locate
from mnrl_job.data.tables import read_table
from mnrl_job.errors import DataError, DeniedError
from tests.data.located import GOOD, fetch_uri, locate_uri
from tests.servers.proxy import Fault
from tests.servers.s3 import BUCKET, prefix_of, put


def test_locating_downloads_nothing(server, proxy, reach, tmp_path):
    uri = reach(proxy)
    put(server, uri, {"a.jsonl": GOOD, "b.jsonl": GOOD})
    located = locate_uri(uri)
    assert located.bytes == 2 * len(GOOD)
    assert not [seen for seen in proxy.seen if ".jsonl" in seen]
    assert len(fetch(located, tmp_path).files) == 2


def test_downloaded_inputs_are_reused(server, proxy, reach, tmp_path):
    uri = reach(proxy)
    put(server, uri, {"in/a.jsonl": GOOD, "in/b.jsonl": GOOD})
    first = fetch_uri(f"{uri}/in", tmp_path)
    proxy.seen.clear()
    assert fetch_uri(f"{uri}/in", tmp_path).files == first.files
    assert not [seen for seen in proxy.seen if seen.startswith("GET") and ".jsonl" in seen]


def test_sources_of_one_name_in_two_places_are_kept_apart(server, uri, tmp_path):
    put(server, uri, {"one/a.jsonl": b"one", "two/a.jsonl": b"two"})
    fetched = [fetch_uri(f"{uri}/{name}/a.jsonl", tmp_path) for name in ("one", "two")]
    assert [one.files[0].read_bytes() for one in fetched] == [b"one", b"two"]


def test_an_inaccessible_object_is_denied_not_missing(server, proxy, reach):
    uri = reach(proxy)
    put(server, uri, {"a/b.jsonl": GOOD})
    for name in ("a/b.jsonl", "a", "a/*.jsonl", "nothing"):
        proxy.faults = [Fault("status", times=100, status=403)]
        with pytest.raises(DeniedError, match=r"^MNRL_TRAIN_DATA: s3://bucket/"):
            locate_uri(f"{uri}/{name}")


@pytest.mark.parametrize("pattern", ["in/bad.jsonl", "in", "in/*.jsonl", "**/bad.jsonl"])
def test_a_bad_row_is_named_by_the_object_and_line_the_user_knows(server, uri, tmp_path, pattern):
    put(server, uri, {"in/bad.jsonl": GOOD + b'{"anchor": "a", "positive": " "}\n'})
    with pytest.raises(DataError) as caught:
        read_pairs((fetch_uri(f"{uri}/{pattern}", tmp_path),), ReadOptions(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(f"{uri}/in/bad.jsonl:2: empty")
    pairs = read_pairs(
        (fetch_uri(f"{uri}/{pattern}", tmp_path),), ReadOptions(max_bad_row_ratio=0.5), tmp_path / "pairs.arrow"
    )
    assert [row.where for row in pairs.bad_rows] == [f"{uri}/in/bad.jsonl:2"]
    assert pairs.sources[0].uri == f"{uri}/{pattern}"


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("x.jsonl", b'{"title": "a"}\n', "{}/x.jsonl: no anchor column"),
        ("x.docx", b"PK", "{}/x.docx: "),
        ("x.jsonl.gz", gzip.compress(GOOD, mtime=0)[:-9], "{}/x.jsonl.gz: "),
    ],
)
def test_an_error_in_a_file_names_the_object(server, uri, tmp_path, key, content, message):
    put(server, uri, {key: content})
    with pytest.raises(DataError) as caught:
        read_pairs((fetch_uri(uri, tmp_path),), ReadOptions(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(message.format(uri))
    assert str(tmp_path) not in str(caught.value)


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
        eval_set = read_evalset(fetch_uri(f"{uri}/{name}", tmp_path), tmp_path / "out" / name)
        assert read_table(eval_set.folder / "corpus.arrow").to_pylist() == [{"id": "d", "text": "two", "title": 0}]


def test_an_error_in_an_eval_set_names_the_object(server, uri, tmp_path):
    put(server, uri, {"set/queries.jsonl": b'{"_id": "q", "text": ""}\n', "set/corpus.jsonl": b""})
    with pytest.raises(DataError) as caught:
        read_evalset(fetch_uri(f"{uri}/set", tmp_path), tmp_path / "out")
    assert str(caught.value).startswith(f"{uri}/set: qrels/test.tsv ")
    put(server, uri, {"set/qrels/test.tsv": b"query-id\tcorpus-id\tscore\n"})
    with pytest.raises(DataError) as caught:
        read_evalset(fetch_uri(f"{uri}/set", tmp_path), tmp_path / "out")
    assert str(caught.value).startswith(f"{uri}/set/queries.jsonl:1: empty (text of 'q')")


def test_a_deleted_object_is_not_read_from_an_earlier_download(server, uri, tmp_path):
    text = '{{"_id": "{}", "text": "{}"}}\n'.format
    judgements = b"query-id\tcorpus-id\tscore\nq\td\t1\n"
    put(server, uri, {"set/qrels/test.tsv": judgements, "set/queries.jsonl": text("q", "x").encode()})
    put(server, uri, {"set/corpus.jsonl": text("d", "OLD").encode()})
    fetch_uri(f"{uri}/set", tmp_path)
    server.client().delete_object(Bucket=BUCKET, Key=f"{prefix_of(uri)}set/corpus.jsonl")
    put(server, uri, {"set/corpus.jsonl.gz": gzip.compress(text("d", "NEW").encode())})
    eval_set = read_evalset(fetch_uri(f"{uri}/set", tmp_path), tmp_path / "out")
    assert read_table(eval_set.folder / "corpus.arrow").to_pylist() == [{"id": "d", "text": "NEW", "title": 0}]


def test_the_log_of_differing_numbers_of_negatives_names_the_objects(server, uri, tmp_path, caplog):
    put(server, uri, {"a.jsonl": GOOD, "b.jsonl": b'{"anchor": "a", "positive": "b", "negative": "c"}\n'})
    with caplog.at_level(logging.INFO, "mnrl_job"):
        read_pairs((fetch_uri(uri, tmp_path),), ReadOptions(), tmp_path / "pairs.arrow")
    assert f"rows have 0 ({uri}/a.jsonl:1) to 1 ({uri}/b.jsonl:1) negatives" in caplog.text


def test_beir_training_data_on_s3_is_read_and_errors_name_the_objects(server, uri, tmp_path):
    files = {
        "beir/README.md": b"not data",
        "beir/queries.jsonl": b'{"_id": "q", "text": "one"}\n',
        "beir/corpus.jsonl.gz": gzip.compress(b'{"_id": "d", "text": "two"}\n{"_id": "e", "text": ""}\n'),
        "beir/qrels/train.tsv": b"query-id\tcorpus-id\tscore\nq\td\t1\nq\te\t1\n",
    }
    put(server, uri, files)
    fetched = fetch_uri(f"{uri}/beir", tmp_path)
    pairs = read_pairs((fetched,), ReadOptions(max_bad_row_ratio=0.5), tmp_path / "pairs.arrow")
    assert read_table(pairs.path).to_pylist() == [{"anchor": "one", "positive": "two"}]
    where, detail = f"{uri}/beir/qrels/train.tsv:3", f"text of 'e' at {uri}/beir/corpus.jsonl.gz:2"
    assert pairs.bad_rows == (BadRow(where, "empty", detail),)
    with pytest.raises(DataError) as caught:
        read_pairs((fetched,), ReadOptions(), tmp_path / "pairs.arrow")
    assert str(caught.value).startswith(f"{where}: empty ({detail}); 1 of 2 rows")


def test_fetching_keeps_the_weight_of_a_source(server, uri, tmp_path):
    put(server, uri, {"a.jsonl": GOOD})
    fetched = fetch(locate(Source("s", f"{uri}/a.jsonl", 2.5), "MNRL_TRAIN_DATA", "path"), tmp_path)
    assert fetched.weight == 2.5


def test_an_eval_set_may_be_named_by_a_glob_on_s3(server, uri, tmp_path):
    content = {"queries": {"q": "a"}, "corpus": {"d": "b"}, "relevant_docs": {"q": ["d"]}}
    put(server, uri, {"ev/faq.json": json.dumps(content).encode()})
    assert read_evalset(fetch_uri(f"{uri}/ev/f*.json", tmp_path), tmp_path / "out").queries == 1
