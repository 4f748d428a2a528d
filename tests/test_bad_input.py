"""Bad input through the real command line: one clear line, the right code, no traceback, no `_SUCCESS`."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import PAIRS, clean_environment, command, write_jsonl, write_pairs


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
    "a missing file": (None, {"MNRL_TRAIN_DATA": "nowhere.jsonl"}, 66, "nowhere.jsonl does not exist"),
    "a missing eval set": (None, {"MNRL_EVAL_DATA": "nowhere"}, 66, "MNRL_EVAL_DATA: nowhere does not exist"),
    "an unreadable format": (
        lambda path: (path / "pairs.docx").write_bytes(b"PK\x03\x04"),
        {"MNRL_TRAIN_DATA": "pairs.docx"},
        65,
        "pairs.docx: unknown format .docx; expected .jsonl",
    ),
    "a torn archive": (torn_gzip, {"MNRL_TRAIN_DATA": "torn.jsonl.gz"}, 65, "torn.jsonl.gz: the file is damaged"),
    "missing columns": (
        lambda path: write_jsonl(path / "odd.jsonl", [{"title": "a", "body": "b"}]),
        {"MNRL_TRAIN_DATA": "odd.jsonl"},
        65,
        "no anchor column; found title, body",
    ),
    "an empty training set": (
        lambda path: (path / "empty.jsonl").write_text("", encoding="utf-8"),
        {"MNRL_TRAIN_DATA": "empty.jsonl"},
        65,
        "no usable pair",
    ),
    "one malformed line in the middle": (
        one_bad_line,
        {"MNRL_TRAIN_DATA": "broken.jsonl"},
        65,
        "broken.jsonl:5: malformed JSON",
    ),
    "judgements of unknown documents": (unknown_document, {"MNRL_EVAL_DATA": "unknown.json"}, 65, "is 'd77'"),
    "a base model without weights": (model_without_weights, {"MNRL_BASE_MODEL": "hollow"}, 66, "holds no weights"),
    "a base model folder that is not there": (None, {"MNRL_BASE_MODEL": "./gone"}, 66, "./gone is not a folder"),
    "an output below a file": (
        None,
        {"MNRL_OUTPUT": "pairs.jsonl/out"},
        64,
        "MNRL_OUTPUT: pairs.jsonl/out/r: cannot write",
    ),
    "an output that may not be written": (
        None,
        {"MNRL_OUTPUT": "/proc/out"},
        (64, 69, 77),
        "MNRL_OUTPUT: /proc/out/r: cannot write",
    ),
    "a batch larger than the data": (None, {"MNRL_BATCH_SIZE": "64"}, 64, "MNRL_BATCH_SIZE=64 is larger than the 8"),
    "a batch the workers cannot share": (
        None,
        {"MNRL_BATCH_SIZE": "7", "MNRL_NUM_PROCESSES": "2"},
        64,
        "MNRL_BATCH_SIZE=7 is not a multiple of the 2 workers",
    ),
    "one positive for all": (
        lambda path: write_pairs(path / "same.jsonl", [(f"q {i}", "one answer") for i in range(20)]),
        {"MNRL_TRAIN_DATA": "same.jsonl"},
        65,
        "the 20 training pairs have one positive between them, so there is nothing to tell it from",
    ),
    "a planned batch that cannot be filled": (
        lambda path: write_pairs(path / "few.jsonl", [(f"q {i}", f"answer {i % 7}") for i in range(20)]),
        {"MNRL_TRAIN_DATA": "few.jsonl", "MNRL_BATCHING": "planned"},
        64,
        "no batch can be filled without repeating a text, the 20 pairs have 7 distinct positives; set it to 7 or less",
    ),
    "a metric of an eval set that is not there": (None, {"MNRL_PRIMARY_METRIC": "x.ndcg@10"}, 64, "there are: faq"),
    "a storage we do not read": (None, {"MNRL_TRAIN_DATA": "ftp://host/x.jsonl"}, 64, "ftp:// is not supported"),
    "wrong settings": (None, {"MNRL_EPOCHS": "0", "MNRL_SEEED": "1"}, 64, "did you mean MNRL_SEED?"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_clear_line(mnrl_job, tmp_path, good, case):
    prepare, change, code, said = CASES[case]
    if prepare:
        prepare(tmp_path)
    ended = mnrl_job("train", **(good | change))
    assert ended.code in (code if isinstance(code, tuple) else (code,)), ended.stderr
    assert said in ended.stderr
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


def test_a_hub_model_out_of_reach_is_missing(mnrl_job, tmp_path, good):
    ended = mnrl_job("train", **(good | {"MNRL_BASE_MODEL": "nobody/no-such-model@main"}))
    assert ended.code == 66, ended.stderr
    assert "nobody/no-such-model@main cannot be loaded" in ended.last_line
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("_SUCCESS"))


def test_a_damaged_base_model_is_unusable_data(mnrl_job, tmp_path, good):
    shutil.copytree(good["MNRL_BASE_MODEL"], tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ended = mnrl_job("train", **(good | {"MNRL_BASE_MODEL": "torn"}))
    assert ended.code == 65, ended.stderr
    assert "MNRL_BASE_MODEL: torn cannot be loaded" in ended.last_line
    assert "Traceback" not in ended.stderr


def test_more_tokens_than_the_model_takes_are_refused(mnrl_job, good):
    ended = mnrl_job("train", **(good | {"MNRL_MAX_SEQ_LENGTH": "65"}))
    assert ended.code == 64, ended.stderr
    assert "MNRL_MAX_SEQ_LENGTH=65: the model takes 64 at most" in ended.last_line


def test_a_loss_that_is_no_number_ends_with_its_own_code_from_two_workers(mnrl_job, tmp_path, good):
    ended = mnrl_job("train", **(good | {"MNRL_SCALE": "1e39", "MNRL_NUM_PROCESSES": "2"}))
    assert ended.code == 81, ended.stderr
    assert "the loss became nan at step 1" in ended.last_line
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("_SUCCESS"))


@pytest.fixture
def running(tmp_path, good):
    """A job with two workers, caught in the middle of training."""
    write_pairs(tmp_path / "pairs.jsonl", [(f"{a} {i}", f"{p} {i}") for i in range(400) for a, p in PAIRS])
    environment = clean_environment(**(good | {"MNRL_EPOCHS": "50", "MNRL_NUM_PROCESSES": "2"}))
    with subprocess.Popen(
        command("train"), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "training on" in line:
                break
        yield process
        process.kill()


def workers_of(process):
    """The two that train, and the one that waits to verify, in the order of their start."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_sigterm_ends_with_preempted_and_nothing_left(running, tmp_path):
    workers = workers_of(running)
    assert len(workers) == 3
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 75, stderr
    assert "stopped on request" in stderr.strip().splitlines()[-1]
    assert gone(workers)
    assert not list(tmp_path.rglob("_SUCCESS"))
    assert json.loads((tmp_path / "out" / "r" / "failure.json").read_text())["exit_code"] == 75


def test_a_killed_worker_ends_the_run_and_its_sibling(running, tmp_path):
    workers = workers_of(running)
    os.kill(workers[1], signal.SIGKILL)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 70, stderr
    assert "was killed by SIGKILL" in stderr.strip().splitlines()[-1]
    assert gone(workers)
    assert not list(tmp_path.rglob("_SUCCESS"))


def test_a_killed_supervisor_takes_its_workers_along(running, tmp_path):
    workers = workers_of(running)
    running.kill()
    running.wait(timeout=10)
    assert gone(workers)
    assert not list(tmp_path.rglob("_SUCCESS"))
