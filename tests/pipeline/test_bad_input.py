"""Bad input through the real command line: one clear line, the right code, no traceback, no `_SUCCESS`."""

import gzip
import json
import os
import re
import shutil

import pytest

from mnrl_job.embedding.loading import ModelOptions, load_model
from mnrl_job.errors import NotFound, SettingsError
from tests.examples import PAIRS, write_jsonl, write_pairs


def one_bad_line(tmp_path):
    lines = [json.dumps({"anchor": anchor, "positive": positive}) for anchor, positive in PAIRS]
    (tmp_path / "broken.jsonl").write_text("\n".join([*lines[:4], '{"anchor": "torn', *lines[4:]]), encoding="utf-8")


def unknown_document(tmp_path):
    (tmp_path / "unknown.json").write_text(
        json.dumps({"queries": {"q1": "a"}, "corpus": {"d1": "b"}, "relevant_docs": {"q1": ["d77"]}}), encoding="utf-8"
    )


def model_without_weights(tmp_path):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text("{}", encoding="utf-8")


def torn_gzip(tmp_path):
    packed = gzip.compress(b"".join(os.urandom(1000) for _ in range(100)))
    (tmp_path / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])


CASES = {
    "a missing file": (None, {"MNRL_TRAIN_DATA": "nowhere.jsonl"}, 66, r"MNRL_TRAIN_DATA: nowhere\.jsonl "),
    "a missing eval set": (None, {"MNRL_EVAL_DATA": "nowhere"}, 66, "MNRL_EVAL_DATA: nowhere "),
    "an unreadable format": (
        lambda path: (path / "pairs.docx").write_bytes(b"PK\x03\x04"),
        {"MNRL_TRAIN_DATA": "pairs.docx"},
        65,
        r"pairs\.docx: .*\.docx.*\.jsonl",
    ),
    "a torn archive": (torn_gzip, {"MNRL_TRAIN_DATA": "torn.jsonl.gz"}, 65, r"torn\.jsonl\.gz: .*damaged"),
    "missing columns": (
        lambda path: write_jsonl(path / "odd.jsonl", [{"title": "a", "body": "b"}]),
        {"MNRL_TRAIN_DATA": "odd.jsonl"},
        65,
        r"odd\.jsonl: .*\banchor column; .*title, body; .*MNRL_ANCHOR_COLUMN",
    ),
    "a header in Latin-1": (
        lambda path: (path / "latin.csv").write_bytes("anchor,positive,größe\na,b,1\n".encode("latin-1")),
        {"MNRL_TRAIN_DATA": "latin.csv"},
        65,
        r"latin\.csv:1: .*b'gr\\xf6\\xdfe'.* UTF-8",
    ),
    "an empty training set": (
        lambda path: (path / "empty.jsonl").write_text("", encoding="utf-8"),
        {"MNRL_TRAIN_DATA": "empty.jsonl"},
        65,
        "empty.jsonl: the file has no rows",
    ),
    "one malformed line in the middle": (
        one_bad_line,
        {"MNRL_TRAIN_DATA": "broken.jsonl"},
        65,
        r"broken\.jsonl:5: malformed JSON",
    ),
    "judgements of unknown documents": (
        unknown_document,
        {"MNRL_EVAL_DATA": "unknown.json"},
        65,
        r"unknown\.json: relevant_docs\['q1'\]: unknown id .*'d77'",
    ),
    "a base model without weights": (
        model_without_weights,
        {"MNRL_BASE_MODEL": "hollow"},
        66,
        "MNRL_BASE_MODEL: hollow contains no weights",
    ),
    "a base model folder that is not there": (None, {"MNRL_BASE_MODEL": "./gone"}, 66, r"MNRL_BASE_MODEL: \./gone "),
    "an output below a file": (
        None,
        {"MNRL_OUTPUT": "pairs.jsonl/out"},
        64,
        r"MNRL_OUTPUT: pairs\.jsonl/out/r: ",
    ),
    "an output that may not be written": (
        None,
        {"MNRL_OUTPUT": "/proc/out"},
        (64, 69, 77),
        "MNRL_OUTPUT: /proc/out/r: ",
    ),
    "a batch larger than the data": (None, {"MNRL_BATCH_SIZE": "64"}, 64, r"MNRL_BATCH_SIZE=64 .*\b8 training pairs"),
    "a batch the workers cannot share": (
        None,
        {"MNRL_BATCH_SIZE": "2", "MNRL_NUM_PROCESSES": "3"},
        64,
        r"MNRL_BATCH_SIZE=2 .*\b3 workers; .*\b3 or more",
    ),
    "one positive for all": (
        lambda path: write_pairs(path / "same.jsonl", [(f"q {i}", "one answer") for i in range(20)]),
        {"MNRL_TRAIN_DATA": "same.jsonl"},
        65,
        "MNRL_TRAIN_DATA: all 20 training pairs have the same positive",
    ),
    "a metric of an eval set that is not there": (
        None,
        {"MNRL_PRIMARY_METRIC": "x.ndcg@10"},
        64,
        r"MNRL_PRIMARY_METRIC=x\.ndcg@10: .*'x'.* faq",
    ),
    "a storage we do not read": (
        None,
        {"MNRL_TRAIN_DATA": "ftp://host/x.jsonl"},
        64,
        r"MNRL_TRAIN_DATA: ftp://host/x\.jsonl: .*s3://",
    ),
    "wrong settings": (None, {"MNRL_EPOCHS": "0", "MNRL_SEEED": "1"}, 64, r"MNRL_SEEED .* MNRL_SEED\?"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_clear_line(mnrl_job, tmp_path, good, case):
    prepare, change, code, facts = CASES[case]
    if prepare:
        prepare(tmp_path)
    ended = mnrl_job("train", **(good | change))
    assert ended.code in (code if isinstance(code, tuple) else (code,)), ended.stderr
    assert re.search(facts, ended.stderr)
    assert "Traceback" not in ended.stderr
    assert f"(exit {ended.code}, " in ended.last_line
    assert not list(tmp_path.rglob("_SUCCESS"))


def test_the_failure_is_left_beside_the_run(mnrl_job, tmp_path, good):
    ended = mnrl_job("train", **(good | {"MNRL_BATCH_SIZE": "64"}))
    told = json.loads((tmp_path / "out" / "r" / "failure.json").read_text(encoding="utf-8"))
    assert (told["exit_code"], told["class"], told["retry_helps"]) == (64, "settings", False)
    assert told["message"] in ended.stderr


def test_json_logs_are_json_to_the_last_line(mnrl_job, good):
    ended = mnrl_job("train", **(good | {"MNRL_BATCH_SIZE": "64", "MNRL_LOG_FORMAT": "json"}))
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[-1]["level"] == "error"
    assert lines[-1]["exit_code"] == 64


def test_a_hub_model_out_of_reach_is_missing(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=r"^MNRL_BASE_MODEL: nobody/no-such-model@main "):
        load_model("nobody/no-such-model@main", ModelOptions())


def test_more_tokens_than_the_model_takes_are_refused(tiny_model):
    with pytest.raises(SettingsError, match=r"^MNRL_MAX_SEQ_LENGTH=65: .*\b64\b"):
        load_model(str(tiny_model), ModelOptions(max_seq_length=65))


def test_more_dimensions_than_the_model_has_are_refused(tiny_model):
    with pytest.raises(SettingsError, match=r"^MNRL_MATRYOSHKA_DIMS=384,16: .*\b32 dimensions"):
        load_model(str(tiny_model), ModelOptions(matryoshka_dims=(384, 16)))


def test_what_a_worker_finds_in_a_damaged_base_model_ends_with_one_clear_line_too(mnrl_job, tmp_path, good):
    shutil.copytree(good["MNRL_BASE_MODEL"], tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ended = mnrl_job("evaluate", **(good | {"MNRL_BASE_MODEL": "torn"}))
    assert ended.code == 65, ended.stderr
    assert "MNRL_BASE_MODEL: torn " in ended.last_line
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("_SUCCESS"))
