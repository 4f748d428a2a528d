"""`compare` of published runs: the table, the page, and runs that cannot be compared."""

import hashlib
import json
import shutil

import pytest

from mnrl_job.report.page.formatting import signed
from tests.examples import EVIL, read_metrics
from tests.program import run_command
from tests.report.page_reader import Reader, data_of
from tests.servers.s3 import BUCKET


@pytest.fixture(scope="module")
def evaluated(published, tmp_path_factory):
    """A run of `evaluate` on the eval set of the published run, with its base model."""
    output = tmp_path_factory.mktemp("evaluated")
    settings = published.settings | {"MNRL_OUTPUT": str(output), "MNRL_RUN_ID": "base"}
    ended = run_command(published.folder, "evaluate", **settings)
    assert ended.code == 0, ended.stderr
    return output / "base"


def change(run, name, edit):
    """Edit a JSON Lines file of a run as if it had been published like that."""
    path = run / name
    lines = [edit(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = json.loads((run / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (run / "manifest.json").write_text(json.dumps(manifest))
    digest = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    (run / "_SUCCESS").write_text(json.dumps({"manifest_sha256": digest}))


def test_a_training_compared_with_its_base_model_has_the_gain_and_interval_that_it_reported(
    mnrl_job, published, evaluated, tmp_path
):
    ended = mnrl_job("compare", str(evaluated), str(published.run), "--output", "new/page.html", "--log-format", "json")
    assert ended.code == 0, ended.stderr
    reported = read_metrics(published.run)["evaluation"]["faq"]
    low, high = reported["confidence_interval"]["ndcg@10"]
    result = next(line for line in map(json.loads, ended.stdout.splitlines()) if line["message"] == "result")
    for name in ("before", "after", "confidence_interval", "wins_losses"):
        assert result["evaluation"]["faq"]["ndcg@10"][name] == reported[name]["ndcg@10"]
    assert f"A is {evaluated}, B is {published.run}" in ended.stderr
    assert "the page is new/page.html" in ended.last_line
    page = (tmp_path / "new" / "page.html").read_text()
    reader = Reader(page)
    assert f"{signed(low)} to {signed(high)}" in reader.text
    assert len(reader.attributes("script")) == 2
    assert not reader.attributes("img")
    data = data_of(page)
    assert data["query"][0] == f"{EVIL} forgot my password"
    ranks = [json.loads(line) for line in (published.run / "rankings" / "faq.jsonl").read_text().splitlines()]
    assert [data[side]["rank"] for side in ("before", "after")] == [
        [line[side]["rank"] for line in ranks] for side in ("before", "after")
    ]


def test_the_results_after_training_are_compared(mnrl_job, published, evaluated, tmp_path):
    def worsen(line):
        metrics = {name: value / 2 for name, value in line["after"]["metrics"].items()}
        return line | {"after": line["after"] | {"rank": 9, "metrics": metrics}}

    copy = shutil.copytree(published.run, tmp_path / "copy")
    change(copy, "rankings/faq.jsonl", worsen)
    ended = mnrl_job("compare", str(evaluated), str(copy))
    assert ended.code == 0, ended.stderr
    reported = read_metrics(published.run)["evaluation"]["faq"]
    before, after = reported["before"]["ndcg@10"], reported["after"]["ndcg@10"] / 2
    assert f"{before:>8.4f}{after:>8.4f}{after - before:>+9.4f}" in ended.stdout
    assert data_of((tmp_path / "comparison.html").read_text())["after"]["rank"] == [9, 9, 9]


def test_runs_on_s3_are_compared_without_reading_their_models(mnrl_job, moto, published, evaluated):
    moto.put("compared/base", evaluated)
    moto.put("compared/r", published.run)
    moto.client().delete_object(Bucket=BUCKET, Key="compared/r/model/model.safetensors")
    uris = [f"s3://{BUCKET}/compared/{name}" for name in ("base", "r")]
    ended = mnrl_job("compare", *uris, str(published.run), **moto.environment)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("\nfaq\n") == 2


def test_runs_without_a_common_eval_set_end_with_the_data_code_and_others_are_named(mnrl_job, published, tmp_path):
    settings = published.settings | {"MNRL_OUTPUT": str(tmp_path), "MNRL_RUN_ID": "other"}
    shutil.copytree(published.folder, tmp_path / "input", ignore=shutil.ignore_patterns("out"))
    content = json.loads((tmp_path / "input" / "faq.json").read_text())
    content["corpus"]["d9"] = "one more document"
    (tmp_path / "input" / "faq.json").write_text(json.dumps(content))
    assert run_command(tmp_path / "input", "evaluate", **settings).code == 0
    ended = mnrl_job("compare", str(published.run), str(tmp_path / "other"))
    assert ended.code == 65
    assert "have no eval set in common" in ended.last_line
    assert ended.stderr.count("not comparing faq") == 2
    assert not (tmp_path / "comparison.html").exists()


def test_other_queries_or_metrics_damage_and_missing_runs_are_told_apart(mnrl_job, published, evaluated, tmp_path):
    copy = shutil.copytree(published.run, tmp_path / "copy")
    change(copy, "rankings/faq.jsonl", lambda line: line | {"query_id": line["query_id"] + "x"})
    other = mnrl_job("compare", str(evaluated), str(copy))
    assert (other.code, "have different queries or metrics on faq" in other.last_line) == (65, True)
    (copy / "rankings" / "faq.jsonl").write_text("")
    damaged = mnrl_job("compare", str(evaluated), str(copy))
    assert (damaged.code, "rankings/faq.jsonl: has 0 bytes" in damaged.stderr) == (65, True)
    missing = mnrl_job("compare", str(evaluated), str(tmp_path / "nowhere"))
    assert (missing.code, "nothing is there" in missing.last_line) == (66, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "two or more different runs (OUTPUT/RUN_ID); given: none"),
        (("a",), "given: a"),
        (("a", "b", "a"), "given: a, b, a"),
        (("a", "b", "--output", "."), "is a directory"),
    ],
)
def test_wrong_arguments_end_with_the_settings_code(mnrl_job, arguments, message):
    ended = mnrl_job("compare", *arguments)
    assert ended.code == 64
    assert message in ended.last_line
