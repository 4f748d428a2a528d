"""Whole runs with everything on S3, on both kinds of server: inputs, base model, output, failures, second attempts."""

import json
import signal
import time

import pytest

from tests.examples import PAIRS
from tests.program import start_command
from tests.s3_runs import furnish, settings_for
from tests.servers.proxy import Fault, proxied
from tests.servers.s3 import objects, prefix_of, put


@pytest.fixture
def place_on_moto(moto, tmp_path, tiny_model):
    return furnish(moto, tmp_path, tiny_model)


# On rclone, which ignores conditions, two attempts at once run below.
@pytest.mark.parametrize("kind", ["moto", pytest.param("rclone", marks=pytest.mark.slow)])
def test_a_run_reads_from_and_writes_to_s3_alone_and_is_verified_and_known_again(
    mnrl_job, tmp_path, tiny_model, request, kind
):
    server = request.getfixturevalue(kind)
    place = furnish(server, tmp_path, tiny_model)
    environment = settings_for(place) | server.environment
    ended = mnrl_job("train", **environment)
    assert ended.code == 0, ended.stderr
    assert f"the run is in {place}/runs/r" in ended.last_line
    run = objects(server, f"{place}/runs/r")
    manifest = json.loads(run["manifest.json"])
    assert run.keys() == manifest["files"].keys() | {"manifest.json", "_SUCCESS"}
    assert manifest["inputs"].keys() == {"train/data", "eval/faq", "base_model", "batches"}
    assert json.loads(run["metrics.json"])["data"]["train"]["sources"][0]["uri"] == f"{place}/data"
    assert not server.uploads()

    again = mnrl_job("train", **environment)
    assert again.code == 0
    assert f"{place}/runs/r is already published" in again.last_line
    other = mnrl_job("train", **environment | {"MNRL_SEED": "7"})
    assert other.code == 64
    assert f"{place}/runs/r " in other.last_line
    assert "MNRL_RUN_ID" in other.last_line
    assert objects(server, f"{place}/runs/r") == run

    good = mnrl_job("verify", f"{place}/runs/r", **server.environment)
    assert good.code == 0, good.stderr
    weights = bytearray(run["model/model.safetensors"])
    weights[-1] ^= 1
    put(server, f"{place}/runs/r", {"model/model.safetensors": bytes(weights)})
    bad = mnrl_job("verify", f"{place}/runs/r", **server.environment)
    assert bad.code == 65
    assert "model/model.safetensors: " in bad.stderr
    assert "audit.json" not in bad.stderr


def test_a_bad_row_is_named_by_the_object_it_stands_in_and_told_everywhere_alike(
    mnrl_job, server, tmp_path, tiny_model
):
    place = furnish(server, tmp_path, tiny_model)
    lines = [json.dumps({"anchor": anchor, "positive": positive}) for anchor, positive in PAIRS]
    put(server, place, {"bad/rows.jsonl": "\n".join([lines[0], '{"anchor": "torn', *lines[1:]]).encode()})
    environment = settings_for(place, MNRL_TRAIN_DATA=f"{place}/bad") | server.environment
    ended = mnrl_job("train", **environment)
    assert ended.code == 65, ended.stderr
    assert f"{place}/bad/rows.jsonl:2: malformed JSON" in ended.last_line
    told = json.loads(objects(server, f"{place}/runs/r")["failure.json"])
    assert (told["exit_code"], told["class"], told["retry_helps"]) == (65, "data", False)
    assert told["message"] in ended.last_line


def test_two_attempts_at_once_leave_one_run_and_both_end_well(rclone, tmp_path, tiny_model):
    place = furnish(rclone, tmp_path, tiny_model)
    environment = settings_for(place) | rclone.environment
    logs = [tmp_path / f"log-{number}" for number in range(2)]
    running = [start_command(tmp_path, ["train"], log, **environment) for log in logs]
    codes, told = [process.wait() for process in running], [log.read_text() for log in logs]
    assert codes == [0, 0], told
    assert sum("already published" in text.splitlines()[-1] for text in told) == 1
    run = objects(rclone, f"{place}/runs/r")
    files = json.loads(run["manifest.json"])["files"]
    assert run.keys() == files.keys() | {"manifest.json", "_SUCCESS"}
    assert {name: len(content) for name, content in run.items() if name in files} == {
        name: facts["bytes"] for name, facts in files.items()
    }


@pytest.mark.slow
def test_the_same_command_resumes_a_stopped_run_without_a_run_id(mnrl_job, moto, place_on_moto, tmp_path):
    long = {"MNRL_RUN_ID": "", "MNRL_EPOCHS": "300", "MNRL_CHECKPOINT_INTERVAL": "20"}
    environment = settings_for(place_on_moto, **long) | moto.environment
    process = start_command(tmp_path, ["train"], tmp_path / "log", **environment)
    while not any("/checkpoints/step-" in key for key in moto.objects(prefix_of(f"{place_on_moto}/runs"))):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 75, (tmp_path / "log").read_text()
    ended = mnrl_job("train", **environment)
    assert ended.code == 0, ended.stderr
    assert "resuming from step" in ended.stderr
    run, *others = {key.split("/")[0] for key in objects(moto, f"{place_on_moto}/runs")}
    assert others == []
    assert "_SUCCESS" in objects(moto, f"{place_on_moto}/runs/{run}")


@pytest.mark.parametrize(
    ("command", "status", "code", "fact"),
    [
        ("evaluate", 403, 77, "_SUCCESS: "),
        ("train", 503, 69, "SlowDown"),
    ],
)
def test_an_upload_that_fails_ends_with_its_cause_and_no_marker(
    mnrl_job, moto, place_on_moto, command, status, code, fact
):
    with proxied(moto, Fault("status", r"PUT .*_SUCCESS", times=99, status=status)) as proxy:
        environment = settings_for(place_on_moto) | proxy.environment | {"AWS_MAX_ATTEMPTS": "2"}
        ended = mnrl_job(command, **environment)
    assert ended.code == code, ended.stderr
    assert fact in ended.last_line
    run = objects(moto, f"{place_on_moto}/runs/r")
    assert "_SUCCESS" not in run
    assert json.loads(run["failure.json"])["exit_code"] == code
    assert not [key for key in run if key.startswith(".leases")]


def test_denied_inputs_are_known_before_anything_is_fetched(mnrl_job, moto, place_on_moto):
    with proxied(moto, Fault("status", r"GET /bucket\?.*eval", times=99, status=403)) as proxy:
        environment = settings_for(place_on_moto, MNRL_EVAL_DATA=f"{place_on_moto}/eval/") | proxy.environment
        ended = mnrl_job("train", **environment)
        assert ended.code == 77, ended.stderr
        assert "MNRL_EVAL_DATA" in ended.last_line
        assert not [request for request in proxy.seen if request.startswith("GET") and "pairs.jsonl" in request]
