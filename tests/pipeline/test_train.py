"""Whole runs through the real command line, on real files, in real processes."""

import hashlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mnrl_job.config.settings import Settings
from mnrl_job.errors import HangTimeout, Preempted
from mnrl_job.pipeline.open_attempt import open_attempt
from tests.examples import PAIRS, fill, read_metrics, write_evalset, write_pairs
from tests.program import run_command
from tests.report.page_reader import Reader, data_of

EIGHT_ROWS = [
    ("How do I reset my password?", "Open Settings, choose Security and click Reset password."),
    ("Where can I download my invoice?", "Invoices are listed under Billing, each with a PDF link."),
    ("How do I add a teammate?", "Invite colleagues from the Members page by e-mail."),
    ("Can I change my plan?", "Switch between plans at any time on the Subscription page."),
    ("How do I delete my account?", "Account deletion is at the bottom of the Profile page."),
    ("Why was my card declined?", "Banks decline cards for limits or expired dates; try another card."),
    ("How do I export my data?", "Use Export on the Data page to download a CSV archive."),
    ("Is there a mobile app?", "Apps for iOS and Android are in the stores."),
]
EIGHT_ROW_EVAL = {
    "queries": {"q1": "I forgot my password", "q2": "get a PDF of my bill", "q3": "remove my profile for good"},
    "corpus": {"d1": EIGHT_ROWS[0][1], "d2": EIGHT_ROWS[1][1], "d3": EIGHT_ROWS[4][1], "d4": EIGHT_ROWS[7][1]},
    "relevant_docs": {"q1": ["d1"], "q2": ["d2"], "q3": ["d3"]},
}


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_eight_rows_keep_an_ndcg_at_3_of_one_and_the_model_reloads(mnrl_job, tmp_path, minilm):
    write_pairs(tmp_path / "train.jsonl", EIGHT_ROWS)
    (tmp_path / "faq.json").write_text(json.dumps(EIGHT_ROW_EVAL), encoding="utf-8")
    arguments = ("train", "--train-data", "train.jsonl", "--eval-data", "faq.json", "--base-model", str(minilm))
    options = ("--output", "out", "--run-id", "eight", "--batch-size", "8", "--primary-metric", "ndcg@3")
    ended = mnrl_job(*arguments, *options, fresh=True)
    assert ended.code == 0, ended.stderr
    assert "succeeded: faq.ndcg@3 stayed at 1.0000, and this eval set cannot show a gain; the run is in out/eight" in (
        ended.last_line
    )
    assert "faq.ndcg@3 is 1 before training: this eval set cannot show a gain" in ended.stderr

    run = tmp_path / "out" / "eight"
    metrics = read_metrics(run)
    assert metrics["status"] == "succeeded"
    expected = {"name": "faq.ndcg@3", "before": 1.0, "after": 1.0, "delta": 0.0}
    assert metrics["primary_metric"] == expected | {"saturated": True}
    assert metrics["training"]["collapse"] is None, "one step is too few to tell"
    assert metrics["verification"]["shape"] == [1, 384]
    assert metrics["verification"]["max_difference"] < 1e-6
    assert metrics["data"]["eval"]["faq"]["documents"] == 4
    assert metrics["training"]["negatives_per_anchor"] == 7
    assert metrics["training"]["steps"] == 1
    assert metrics["data"]["train"]["rows_used"] == 8

    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    manifest = read_json(run / "manifest.json")
    assert files == set(manifest["files"]) | {"manifest.json", "_SUCCESS"}
    assert {"metrics.json", "audit.json", "report.html", "training_log.jsonl", "rankings/faq.jsonl"} <= files
    assert {"model/model.safetensors", "model/README.md", "model/modules.json"} <= files
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == facts["sha256"], name
    assert {line["query_id"] for line in read_lines(run / "rankings" / "faq.jsonl")} == {"q1", "q2", "q3"}
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert not [text for pair in EIGHT_ROWS for text in pair if text in card]

    # The one step there is has to change the weights: a warm-up rounded up would have trained at rate 0.
    before, after = (load_file(folder / "model.safetensors") for folder in (minilm, run / "model"))
    assert any((before[name] != after[name]).any() for name in before if name in after)

    again = mnrl_job(*arguments, *options)
    assert again.code == 0
    assert "already published" in again.last_line
    other = mnrl_job(*arguments, *options, "--seed", "7")
    assert other.code == 64
    assert re.search("out/eight .*MNRL_RUN_ID", other.last_line)
    assert read_json(run / "metrics.json") == metrics


def test_a_published_run_is_refused_with_other_data_and_accepted_without_data(mnrl_job, published, tmp_path):
    shutil.copytree(published.folder, tmp_path, dirs_exist_ok=True)
    same = mnrl_job("train", **published.settings)
    assert same.code == 0, same.stderr
    assert "already published" in same.last_line
    pairs = (tmp_path / "pairs.jsonl").read_text()
    (tmp_path / "pairs.jsonl").write_text(pairs.replace("password", "PASSWORD"))
    other = mnrl_job("train", **published.settings)
    assert other.code == 65
    assert "train/pairs: " in other.last_line
    assert "MNRL_RUN_ID" in other.last_line
    (tmp_path / "pairs.jsonl").unlink()
    gone = mnrl_job("train", **published.settings)
    assert gone.code == 0, gone.stderr


@pytest.fixture(scope="module")
def on_one_and_two(tmp_path_factory, tiny_model):
    """The same run on one process and on two, `ranks-1` and `ranks-2`. Returns the folder.

    With 64 rows over 16 positives, the batches of the library's ranks have duplicates.
    """
    folder = tmp_path_factory.mktemp("ranks")
    settings = fill(folder, tiny_model) | {"MNRL_EPOCHS": "2", "MNRL_LEARNING_RATE": "1e-3", "MNRL_PRECISION": "fp32"}
    settings["MNRL_MIN_GAIN"] = "-1"  # a few steps on repeated texts need not improve the model
    rows = [(f"{PAIRS[i % 8][0]} {'abcdefgh'[i // 8]}", f"{PAIRS[i % 8][1]} {i % 16 // 8}") for i in range(64)]
    write_pairs(folder / "pairs.jsonl", rows)
    for count in ("1", "2"):
        changes = {"MNRL_RUN_ID": f"ranks-{count}", "MNRL_NUM_PROCESSES": count}
        ended = run_command(folder, "train", **settings | changes)
        assert ended.code == 0, ended.stderr
    return folder


def test_one_process_and_two_train_on_the_same_batches_to_the_same_model(on_one_and_two):
    one, two = (on_one_and_two / "out" / f"ranks-{count}" for count in (1, 2))
    losses = [[line["loss"] for line in read_lines(run / "training_log.jsonl")] for run in (one, two)]
    assert len(losses[0]) == read_json(one / "metrics.json")["training"]["steps"] == 16
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for name in ("in_batch_accuracy", "chance", "positive_score", "hardest_negative_score", "anisotropy"):
        values = [[line[name] for line in read_lines(run / "training_log.jsonl")] for run in (one, two)]
        np.testing.assert_allclose(values[0], values[1], atol=1e-3, err_msg=name)
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], atol=2e-4)
    evaluations = [read_json(run / "metrics.json")["evaluation"]["faq"] for run in (one, two)]
    assert evaluations[0]["before"] == evaluations[1]["before"]
    trainings = [read_json(run / "metrics.json")["training"] for run in (one, two)]
    assert [training["negatives_per_anchor"] for training in trainings] == [7, 7]
    assert [training["masked_per_anchor"] for training in trainings] == [0, 0], "no batch has a duplicate, on any rank"
    assert trainings[0]["rows_digest"] == trainings[1]["rows_digest"]


@pytest.fixture(scope="module")
def evaluated(on_one_and_two, tiny_model):
    """The published evaluation of their base model, on two processes."""
    options = ("--eval-data", "faq.json", "--base-model", str(tiny_model), "--output", "out", "--run-id", "e")
    options += ("--precision", "fp32")
    ended = run_command(on_one_and_two, "evaluate", *options, MNRL_NUM_PROCESSES="2")
    assert ended.code == 0, ended.stderr
    return on_one_and_two / "out" / "e"


def test_evaluate_has_the_metrics_of_train_before_training(evaluated):
    scored, trained = (read_json(run / "metrics.json") for run in (evaluated, evaluated.with_name("ranks-1")))
    assert scored["evaluation"]["faq"]["before"] == trained["evaluation"]["faq"]["before"]
    assert scored["training"] is None
    assert (evaluated / "_SUCCESS").exists()
    assert not (evaluated / "model").exists()


def test_an_evaluation_has_a_report_of_its_scores(evaluated):
    page = (evaluated / "report.html").read_text()
    assert "Scored: of 3 questions," in Reader(page).text
    assert data_of(page)["query"] == ["forgot my password", "get an invoice", "remove my profile"]


@pytest.fixture(scope="module")
def csv_run(tmp_path_factory, tiny_model):
    """A run on a CSV file with columns out of order, a constant one and a bad row; settings come from three origins.

    Returns its folder and how it ended.
    """
    folder = tmp_path_factory.mktemp("csv")
    lines = ["answer,lang,question,negative", *(f"{positive},en,{anchor},not {positive}" for anchor, positive in PAIRS)]
    (folder / "faq.csv").write_text("\n".join([*lines, ",en,no answer,"]), encoding="utf-8")
    write_evalset(folder / "set.json")
    (folder / ".env").write_text("MNRL_BATCH_SIZE=4\nMNRL_MAX_SEQ_LENGTH=16\n", encoding="utf-8")
    ended = run_command(
        folder,
        *("train", "--train-data", "faq.csv", "--eval-data", "one=set.json,two=set.json", "--max-bad-row-ratio", "0.2"),
        *("--base-model", str(tiny_model), "--output", "out", "--run-id", "r", "--primary-metric", "two.mrr@10"),
        *("--epochs", "3", "--precision", "bf16", "--lr-scheduler", "cosine"),
        MNRL_MAX_STEPS="3",
    )
    assert ended.code == 0, ended.stderr
    return folder / "out" / "r", ended


def test_columns_in_another_order_a_constant_column_and_bad_rows_are_handled(csv_run):
    run, ended = csv_run
    assert "ignored columns: lang" in ended.stderr
    audit = read_json(run / "audit.json")
    assert audit["sources"][0]["columns"] == {"anchor": "question", "positive": "answer", "negative_1": "negative"}
    assert audit["sources"][0]["ignored_columns"] == ["lang"]
    assert audit["rejected"] == {"empty": 1}
    assert audit["rejected_rows"][0]["where"] == "faq.csv:10"
    metrics = read_json(run / "metrics.json")
    assert metrics["primary_metric"]["name"] == "two.mrr@10"
    assert set(metrics["evaluation"]) == {"one", "two"}


def test_negatives_and_settings_of_all_origins_are_used(csv_run):
    metrics = read_json(csv_run[0] / "metrics.json")
    assert metrics["training"]["steps"] == 3
    assert metrics["training"]["global_batch_size"] == 4
    assert metrics["training"]["negatives_per_anchor"] == 7
    assert metrics["training"]["precision"] == "bf16"
    assert metrics["model"]["max_seq_length"] == 16


@pytest.fixture(scope="module")
def static(tmp_path_factory, tiny_model):
    """A run of a model without attention mask, and without eval data. Returns its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("static")
    words = StaticEmbedding(Tokenizer.from_file(str(tiny_model / "tokenizer.json")), embedding_dim=16)
    SentenceTransformer(modules=[words], device="cpu").save_pretrained(str(folder / "static"))
    write_pairs(folder / "pairs.jsonl", [(f"{a} {i}", f"{p} {i}") for i in range(5) for a, p in PAIRS])
    ended = run_command(
        folder,
        *("train", "--train-data", "pairs.jsonl", "--base-model", "static", "--output", "out", "--run-id", "r"),
        *("--batch-size", "6"),
    )
    assert ended.code == 0, ended.stderr
    return folder / "out" / "r"


def test_without_eval_data_pairs_are_held_out(static):
    audit = read_json(static / "audit.json")
    assert (audit["rows_held_out"], audit["rows_to_train_on"]) == (4, 36)
    assert read_json(static / "metrics.json")["data"]["eval"]["holdout"]["queries"] == 4


def test_a_static_model_without_attention_mask_is_trained(static):
    metrics = read_json(static / "metrics.json")
    assert metrics["model"]["embedding_dimension"] == 16
    assert metrics["model"]["max_seq_length"] is None
    assert metrics["performance"]["padding_ratio"] is None


@pytest.mark.gpu
def test_a_gpu_is_found_and_used(mnrl_job, tmp_path, tiny_model, pairs_file, eval_file):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    ended = mnrl_job(
        *("train", "--train-data", str(pairs_file), "--eval-data", str(eval_file), "--base-model", str(tiny_model)),
        *("--output", "out", "--run-id", "r", "--batch-size", "8", "--epochs", "5"),
        CUDA_VISIBLE_DEVICES="0",
    )
    assert ended.code == 0, ended.stderr
    metrics = read_json(tmp_path / "out" / "r" / "metrics.json")
    assert metrics["environment"]["devices"] == [f"1 x {torch.cuda.get_device_name(0)}"]
    assert metrics["training"]["precision"] in ("bf16", "fp32")
    assert metrics["verification"]["max_difference"] <= metrics["verification"]["tolerance"]


@pytest.mark.parametrize(
    ("seconds", "has_checkpoint", "code"),
    [(1.5, False, HangTimeout.code), (1.5, True, Preempted.code), (0.0, False, Preempted.code)],
)
def test_preemption_after_a_long_attempt_without_a_checkpoint_counts_as_a_failure(
    tmp_path, seconds, has_checkpoint, code
):
    def be_preempted():
        with open_attempt(Settings(output=str(tmp_path / "out"), run_id="r", hang_timeout="1s")) as attempt:
            if has_checkpoint:
                attempt.status.on_checkpoint(5, upload_seconds=0.1)
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises((HangTimeout, Preempted)):
        be_preempted()
    assert read_json(tmp_path / "out" / "r" / "failure.json")["exit_code"] == code
