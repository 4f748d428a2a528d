"""Every exit code of the contract arrives at `docker run`, as a user without a name under a read-only root."""

import json
from typing import Any

import pytest

from tests.image.containers import ARBITRARY_USER, LONG, Image, checkpoints, signal_worker
from tests.servers.s3 import environment_for

pytestmark = pytest.mark.image

DEAD = environment_for("http://127.0.0.1:1") | {"AWS_MAX_ATTEMPTS": "2"}

ENDS: list[tuple[str, int, str, dict[str, Any]]] = [
    ("it succeeds", 0, "succeeded: faq.ndcg@10", {}),
    ("a name is not a setting", 64, "did you mean MNRL_BATCH_SIZE?", {"MNRL_BATCHSIZE": "8"}),
    ("data cannot be used", 65, "malformed JSON", {"MNRL_TRAIN_DATA": "/data/torn.jsonl"}),
    ("an input is missing", 66, "/data/none.jsonl", {"MNRL_TRAIN_DATA": "/data/none.jsonl"}),
    ("an input may not be read", 77, "/data/private.jsonl", {"MNRL_TRAIN_DATA": "/data/private.jsonl"}),
    ("the storage does not answer", 69, "MNRL_OUTPUT", {"MNRL_OUTPUT": "s3://bucket/runs"} | DEAD),
    ("the output may not be written", 77, "MNRL_OUTPUT", {"MNRL_OUTPUT": "/data/runs"}),
    ("the work folder is full", 78, "/small", {"MNRL_WORK_DIR": "/small", "flags": ("--tmpfs", "/small:size=16k")}),
    ("the memory is used up", 79, "the container is out of memory", {"flags": ("--memory", "320m")}),
    ("it is below the gate", 80, "MNRL_MIN_GAIN is 0.9", {"MNRL_MIN_GAIN": "0.9"}),
    (
        *("the loss is no number", 81, "the loss became nan"),
        LONG | {"MNRL_LEARNING_RATE": "1", "MNRL_WEIGHT_DECAY": "1e30", "MNRL_WARMUP_RATIO": "0"},
    ),
]


@pytest.mark.parametrize(("code", "words", "settings"), [one[1:] for one in ENDS], ids=[one[0] for one in ENDS])
def test_the_code_of_the_contract_is_what_docker_run_returns_when(image: Image, code, words, settings):
    (image.folder / "data" / "torn.jsonl").write_text('{"anchor": "torn\n', encoding="utf-8")
    (image.folder / "data" / "private.jsonl").touch(mode=0o600)
    ended = image.run(user=ARBITRARY_USER, **settings)
    assert ended.code == code, ended.stderr
    assert words in ended.last_line, ended.stderr
    marker = image.folder / "output" / "r" / "_SUCCESS"
    assert marker.exists() == (code == 0)


@pytest.mark.parametrize(("signal", "code", "words"), [("SIGSTOP", 71, "no worker got on"), ("SIGKILL", 70, "SIGKILL")])
def test_a_worker_that_hangs_or_is_killed_ends_the_container(image: Image, signal, code, words):
    container = image.start(user=ARBITRARY_USER, MNRL_HANG_TIMEOUT="20s", **LONG)
    container.until(lambda: checkpoints(image))
    signal_worker(container, signal)
    ended = container.end()
    assert ended.code == code, ended.stderr
    assert words in ended.last_line
    assert json.loads((image.folder / "output" / "r" / "failure.json").read_text())["exit_code"] == code
