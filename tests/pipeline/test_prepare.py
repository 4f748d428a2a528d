"""Data that is prepared once: published like a run, found by the runs that it suits, never used by others."""

import json
import shutil

import pytest

from tests.examples import PAIRS, read_metrics, write_jsonl
from tests.servers.s3 import BUCKET


@pytest.fixture
def inputs(good, tmp_path):
    """Settings of a run of 24 pairs with negatives and a held-out eval set."""
    rows = [
        {"anchor": f"{anchor} {letter}", "positive": f"{positive} {letter}", "negative": f"not {letter}"}
        for letter in "abc"
        for anchor, positive in PAIRS
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    del good["MNRL_EVAL_DATA"], good["MNRL_RUN_ID"]
    return good | {"MNRL_HOLDOUT_RATIO": "0.2", "MNRL_EPOCHS": "2", "MNRL_LEARNING_RATE": "1e-3"}


@pytest.fixture
def data_set(mnrl_job, inputs, tmp_path):
    """The folder of the prepared data set of these inputs."""
    ended = mnrl_job("prepare", **inputs)
    assert ended.code == 0, ended.stderr
    (folder,) = (tmp_path / "out" / "prepared").iterdir()
    assert f"are in {folder.relative_to(tmp_path)}" in ended.last_line
    return folder


def weights_and_metrics(tmp_path, run_id):
    run = tmp_path / "out" / run_id
    metrics = read_metrics(run)
    return (run / "model" / "model.safetensors").read_bytes(), metrics["data"], metrics["evaluation"]


def audit_of(tmp_path, run_id):
    return json.loads((tmp_path / "out" / run_id / "audit.json").read_text())


def test_a_run_finds_the_prepared_data_and_gives_the_same_model(mnrl_job, inputs, tmp_path):
    assert mnrl_job("train", "--run-id", "without", **inputs).code == 0
    assert mnrl_job("prepare", **inputs).code == 0
    ended = mnrl_job("train", "--run-id", "with", **inputs)
    assert ended.code == 0, ended.stderr
    assert "pairs of the prepared data set out/prepared/" in ended.stderr
    assert "tokenizing batch by batch" not in ended.stderr
    assert audit_of(tmp_path, "with") == audit_of(tmp_path, "without")
    assert weights_and_metrics(tmp_path, "with") == weights_and_metrics(tmp_path, "without")
    assert (
        json.loads((tmp_path / "out/with/manifest.json").read_text())["inputs"]
        == (json.loads((tmp_path / "out/without/manifest.json").read_text())["inputs"])
    )


def test_the_data_set_can_be_named_when_its_inputs_are_gone(mnrl_job, inputs, data_set, tmp_path):
    shutil.move(data_set, tmp_path / "elsewhere")
    (tmp_path / "pairs.jsonl").unlink()
    ended = mnrl_job("train", "--run-id", "r", **inputs | {"MNRL_TRAIN_DATA": "elsewhere"})
    assert ended.code == 0, ended.stderr
    assert read_metrics(tmp_path / "out" / "r")["data"]["train"]["rows_read"] == 24


def test_training_leaves_the_data_set_as_it_was(mnrl_job, inputs, data_set):
    before = {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()}
    assert mnrl_job("train", **inputs).code == 0
    assert {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("data_set")
def test_preparing_again_does_nothing(mnrl_job, inputs):
    ended = mnrl_job("prepare", "--learning-rate", "1e-4", **{k: v for k, v in inputs.items() if "RATE" not in k})
    assert ended.code == 0
    assert "is already prepared" in ended.last_line


@pytest.mark.usefixtures("data_set")
@pytest.mark.parametrize(
    "change",
    [{"MNRL_BATCH_SIZE": "4"}, {"MNRL_SEED": "7"}, {"MNRL_MAX_SEQ_LENGTH": "16"}, {"MNRL_EVAL_INTERVAL": "2"}],
)
def test_a_run_with_other_settings_prepares_its_own(mnrl_job, inputs, change):
    ended = mnrl_job("train", **inputs | change)
    assert ended.code == 0, ended.stderr
    assert "prepared data set" not in ended.stderr


@pytest.mark.usefixtures("data_set")
def test_a_run_with_changed_inputs_prepares_its_own(mnrl_job, inputs, tmp_path):
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"anchor": "one more", "positive": "row of text", "negative": "not it"}) + "\n")
    ended = mnrl_job("train", **inputs)
    assert ended.code == 0
    assert "prepared data set" not in ended.stderr


def test_a_named_data_set_with_other_settings_is_refused_with_all_differences(mnrl_job, inputs, data_set):
    ended = mnrl_job("train", **inputs | {"MNRL_TRAIN_DATA": str(data_set), "MNRL_BATCH_SIZE": "4", "MNRL_SEED": "7"})
    assert ended.code == 64
    assert "prepared with other settings: MNRL_BATCH_SIZE was 8, is 4; MNRL_SEED was 42, is 7" in ended.last_line


def test_a_named_data_set_of_another_tokenizer_is_tokenized_batch_by_batch(mnrl_job, inputs, data_set):
    ended = mnrl_job("train", **inputs | {"MNRL_TRAIN_DATA": str(data_set), "MNRL_MAX_SEQ_LENGTH": "8"})
    assert ended.code == 0, ended.stderr
    assert "the model has another tokenizer, maximum length or prompt" in ended.stderr


@pytest.mark.parametrize(
    "beside",
    [
        {"MNRL_TRAIN_DATA": "{data_set},pairs.jsonl"},
        {"MNRL_TRAIN_DATA": "x:2={data_set}"},
        {"MNRL_TRAIN_DATA": "{data_set}", "MNRL_EVAL_DATA": "faq.json"},
    ],
)
def test_a_data_set_stands_alone(mnrl_job, inputs, data_set, beside):
    given = {name: value.format(data_set=data_set) for name, value in beside.items()}
    ended = mnrl_job("train", **inputs | given)
    assert ended.code == 64
    assert "is a prepared data set, which stands alone" in ended.last_line


@pytest.mark.usefixtures("data_set")
def test_a_run_with_another_base_model_at_the_same_place_prepares_its_own(mnrl_job, inputs, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    inputs |= {"MNRL_BASE_MODEL": "model"}
    assert mnrl_job("prepare", **inputs).code == 0
    with (tmp_path / "model" / "config.json").open("a") as file:
        file.write("\n")
    ended = mnrl_job("train", **inputs)
    assert ended.code == 0, ended.stderr
    assert "prepared data set" not in ended.stderr


def test_check_needs_no_room_for_data_that_train_does_not_fetch(mnrl_job, inputs, data_set):
    inputs |= {"MNRL_TRAIN_DATA": str(data_set)}
    with (data_set / "unused").open("wb") as file:
        file.truncate(4 << 40)
    ended = mnrl_job("check", **inputs)
    assert ended.code == 0, ended.stderr


def test_a_shorter_run_uses_the_first_steps(mnrl_job, inputs, tmp_path):
    inputs |= {"MNRL_MAX_STEPS": "3"}
    assert mnrl_job("train", "--run-id", "without", **inputs).code == 0
    assert mnrl_job("prepare", **inputs).code == 0
    ended = mnrl_job("train", "--run-id", "with", **inputs)
    assert "prepared data set" in ended.stderr
    assert weights_and_metrics(tmp_path, "with")[0] == weights_and_metrics(tmp_path, "without")[0]


@pytest.mark.parametrize("name", ["train.arrow", "plan.npy", "prepared.json", "eval/holdout/corpus.arrow"])
def test_a_damaged_data_set_is_refused(mnrl_job, inputs, data_set, name):
    with (data_set / name).open("ab") as file:
        file.write(b"x")
    ended = mnrl_job("train", **inputs)
    assert ended.code == 65
    assert name in ended.stderr


@pytest.mark.usefixtures("data_set")
def test_check_uses_the_data_set(mnrl_job, inputs):
    ended = mnrl_job("check", **inputs)
    assert ended.code == 0, ended.stderr
    assert "prepared data" in ended.stdout
    assert "ready to train" in ended.last_line


def test_an_unfinished_data_set_is_made_anew(mnrl_job, inputs, data_set):
    before = (data_set / "plan.npy").read_bytes()
    (data_set / "_SUCCESS").unlink()
    (data_set / "plan.npy").write_bytes(b"half")
    ended = mnrl_job("train", "--run-id", "r", **inputs)
    assert "prepared data set" not in ended.stderr
    assert mnrl_job("prepare", **inputs).code == 0
    assert (data_set / "plan.npy").read_bytes() == before
    assert (data_set / "_SUCCESS").exists()


def test_a_prepared_data_set_is_verified_like_a_run(mnrl_job, data_set):
    ended = mnrl_job("verify", str(data_set))
    assert ended.code == 0
    assert "all hashes match" in ended.last_line


@pytest.mark.parametrize("kind", ["moto", pytest.param("rclone", marks=pytest.mark.slow)])
def test_data_sets_are_kept_where_the_setting_says(mnrl_job, inputs, kind, request):
    server = request.getfixturevalue(kind)
    uri = f"s3://{BUCKET}/data-sets-{kind}"
    environment = inputs | server.environment | {"MNRL_PREPARED": uri}
    assert mnrl_job("prepare", **environment).code == 0
    assert any(key.endswith("/_SUCCESS") for key in server.objects(f"data-sets-{kind}"))
    ended = mnrl_job("train", "--run-id", "r", **environment)
    assert ended.code == 0, ended.stderr
    assert "tokenizing batch by batch" not in ended.stderr
    assert f"prepared data set {uri}" in ended.stderr
    mined = mnrl_job("train", "--run-id", "m", **environment | {"MNRL_NUM_HARD_NEGATIVES": "1"})
    assert mined.code == 0, mined.stderr
    assert f"prepared data set {uri}" in mined.stderr
    assert "MNRL_NUM_HARD_NEGATIVES adds negatives" in mined.stderr
    (name,) = {key.split("/")[1] for key in server.objects(f"data-sets-{kind}")}
    named = environment | {"MNRL_TRAIN_DATA": f"{uri}/{name}", "MNRL_MAX_SEQ_LENGTH": "8"}
    other = mnrl_job("train", "--run-id", "o", **named)
    assert other.code == 0, other.stderr
    assert "the model has another tokenizer, maximum length or prompt" in other.stderr


def test_the_folder_of_data_sets_is_no_run(mnrl_job, inputs):
    ended = mnrl_job("train", "--run-id", "prepared", **inputs)
    assert ended.code == 64
    assert "OUTPUT/prepared holds prepared data sets" in ended.last_line


def test_an_unsupported_place_for_data_sets_is_named_by_its_variable(mnrl_job, inputs):
    for command in ("prepare", "train"):
        ended = mnrl_job(command, "--prepared", "gs://bucket/data-sets", **inputs)
        assert ended.code == 64
        assert "MNRL_PREPARED: gs://bucket/data-sets/" in ended.last_line


def test_several_nodes_are_refused(mnrl_job, inputs):
    ended = mnrl_job("prepare", "--num-nodes", "2", "--node-rank", "0", "--master-addr", "localhost", **inputs)
    assert ended.code == 64
    assert "prepare works on one" in ended.last_line


def test_a_failure_leaves_nothing_where_nobody_named_a_run(mnrl_job, inputs, tmp_path):
    ended = mnrl_job("prepare", **inputs | {"MNRL_BATCH_SIZE": "400"})
    assert ended.code == 64
    assert "MNRL_BATCH_SIZE" in ended.last_line
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
