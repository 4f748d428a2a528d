"""The HTML report: its content, escaping of texts, and runs with fewer results."""

import json
import re

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.report.page import query_explorer
from mnrl_job.report.page.formatting import signed
from mnrl_job.report.rankings import write_rankings
from tests.report.page_reader import Reader, data_of
from tests.report.run_outputs import EVIL, TITLE, log, make_run_outputs, query_result, rank_before, set_change


def test_all_queries_are_in_the_data_and_the_largest_changes_in_the_text(run):
    page = run.page()
    data = data_of(page)
    assert (data["metric"], len(data["query"])) == ("ndcg@10", 30)
    assert data["query"][7] == "query 7 about topic 7"
    assert data["texts"][data["relevant"][7]].startswith("document 7 says: all there is to say")
    assert data["before"]["rank"][:8] == [1, 2, 3, 4, 5, 6, 7, 1]
    assert data["after"]["rank"][:8] == [1, 2, 3, 1, 5, 9, 1, 1]
    assert all(len(text) <= query_explorer.DOCUMENT_CHARACTERS for text in data["texts"])
    assert max(data["texts"], key=len).endswith("…")
    text = Reader(page).text
    assert "+0.667 query 6 about topic 6" in text
    assert "−0.086 query 25 about topic 25" in text
    assert text.index("−0.130 query 10") < text.index("−0.086 query 25"), "the largest first"
    assert page.count("<dt>relevant</dt>") == 8 + 4, "all that won and all that lost"


def test_only_the_largest_changes_of_very_many_queries_are_shown(run, monkeypatch):
    monkeypatch.setattr(query_explorer, "MAX_QUERIES", 5)
    page = run.page()
    data = data_of(page)
    assert len(data["query"]) == 5
    assert all(before != after for before, after in zip(data["before"]["rank"], data["after"]["rank"], strict=True))
    assert "The 5 largest changes of faq are shown; rankings/faq.jsonl has all 30 queries" in Reader(page).text


def test_markup_in_texts_is_escaped(run):
    run.metrics["run"]["id"] = EVIL
    run.metrics["model"]["base"] = EVIL
    page = run.page()
    reader = Reader(page)
    assert len(reader.attributes("script")) == 2, "the queries and the page's own"
    assert not reader.attributes("img")
    assert not [attrs for _, attrs in reader.elements if any(name.startswith("on") for name in attrs)]
    assert "window.stolen" in reader.text, "seen, not run"
    assert "window.stolen" in data_of(page)["query"][3]
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert not re.search("[<>&]", blocks[0])


def test_the_page_loads_nothing_and_allows_only_its_own_script(run):
    page = Reader(run.page())
    for tag, attrs in page.elements:
        assert not {"src", "srcset", "style", "action"} & attrs.keys(), tag
        assert attrs.get("href", "#").startswith(("#", "data:,"))
    policy = next(attrs["content"] for attrs in page.attributes("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_secrets_are_redacted(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    run.metrics["model"]["base"] = "https://user:hidden-word@host/model?token=abc"
    write = (run.staging / "audit.json").read_text().replace("single", "with hf_very_secret in it")
    (run.staging / "audit.json").write_text(write.replace('"rows": 1,', '"rows": 2,'))
    results = [query_result(number, rank_before(number)) for number in range(30)]
    texts = {f"q{number}": "x " * 117 + "hf_very_secret" for number in range(30)}  # one would see hf_v
    write_rankings(run.staging / "rankings" / "faq.jsonl", texts, results, results)
    page = run.page()
    assert "hf_v" not in page
    assert "hidden-word" not in page
    assert data_of(page)["query"][0].endswith("x ***")
    assert "with *** in it" in Reader(page).text


def test_the_page_of_an_evaluation_shows_its_scores(tmp_path):
    run = make_run_outputs(tmp_path, queries=30, trained=False)
    page = run.page()
    text = Reader(page).text
    assert "Scored: of 30 questions, 5 get a right answer first" in text
    assert f"ndcg@10 is {run.metrics['evaluation']['faq']['before']['ndcg@10']:.3f} on faq" in text
    assert "Nothing was trained" in text
    assert "after" not in data_of(page)
    for absent in ("Training", "Embeddings", "Data", "Largest wins", "95 % interval"):
        assert absent not in text, absent


def test_the_primary_eval_set_comes_first(tmp_path):
    run = make_run_outputs(tmp_path, queries=30, names=("faq", "manuals"))
    run.metrics["primary_metric"] |= {"name": "manuals.mrr@10", "before": 0.4, "after": 0.5, "delta": 0.1}
    page = run.page()
    reader = Reader(page)
    assert "mrr@10 rose by" in reader.text
    assert data_of(page, 0)["metric"] == data_of(page, 1)["metric"] == "mrr@10"
    assert reader.text.index("manuals: 30 queries") < reader.text.index("faq: 30 queries")
    assert len(reader.attributes("option")) == 2


def test_the_page_has_settings_lineage_and_audit(run):
    run.metrics["training"]["lora_rank"] = 8
    run.metrics["model"]["assumed"]["pooling"] = "mean"
    text = Reader(run.page()).text
    for expected in (
        "MNRL_LEARNING_RATE 0.001 peak learning rate of AdamW",
        "revision abc123",
        "assumptions about the base model mean pooling",
        f"document prompt {EVIL}",
        "final weights those of step 40, which scored best",
        "adapter of rank 8, merged into the model",
        f"settings (SHA-256) {'d' * 64}",
        f"eval/faq {'b' * 64}",
        "embeddings equal those in memory (largest difference 1.0e-07, tolerance 1.0e-05)",
        "21 rows rejected",
        "3 rows of faq rejected",
        "8 queries of faq in its corpus",
        "0.4 % of the positive texts are truncated",
    ):
        assert expected in text, expected
    assert text.index("MNRL_LEARNING_RATE") < text.index("Left at their defaults") < text.index("MNRL_SEED")


def test_a_log_of_an_earlier_version_is_rendered(run):
    kept = ("step", "loss", "learning_rate", "seconds")
    lines = [{name: line[name] for name in kept} for line in log()]
    (run.staging / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Reader(run.page()).text
    assert "Learning rate" in text
    assert "No collapse" not in text


def test_signed_numbers():
    assert [signed(0.1974), signed(-0.02), signed(-0.0001)] == ["+0.197", "−0.020", "0.000"]


def test_an_empty_rankings_file_has_no_queries(run):
    (run.staging / "rankings" / "faq.jsonl").write_text("")
    explorer = query_explorer.build_explorer("faq", [], "ndcg@10", run.eval_sets[0])
    assert (explorer.queries, explorer.won, explorer.tied) == (0, 0, 0)


def test_the_title_of_a_document_is_told_apart_from_its_text(run):
    page = run.page()
    assert f"{TITLE}\tthe text" in data_of(page)["texts"]
    assert ("b", {"class": "title"}) in Reader(page).elements
    assert f"relevant {TITLE} the text" in Reader(page).text


def test_what_to_do_next_follows_from_the_findings(run):
    text = Reader(run.page()).text
    for expected in (
        "Look at these rows : 21 rejected, 4 also in an eval set, 1 with a negative that is a positive elsewhere",
        "Look at the queries that got worse : 4 of 30",
        "Add training pairs : 480 are few",
        "Mine hard negatives (MNRL_NUM_HARD_NEGATIVES) : at the end 98.",
        "Enlarge MNRL_BATCH_SIZE : at the end 98.",
    ):
        assert expected in text, expected
    run.metrics["training"]["hard_negatives"] = 3
    run.metrics["data"]["train"]["rows_used"] = 100_000
    (run.staging / "training_log.jsonl").write_text(json.dumps(log()[0]) + "\n")
    set_change(run, 0.01, (-0.02, 0.04), 0.4)
    text = Reader(run.page()).text
    assert "Add eval queries : a change of 0.010 takes about 270 to prove, there are 30" in text
    for absent in ("Add training pairs", "Mine hard negatives", "Enlarge"):
        assert absent not in text


def test_three_wins_and_losses_come_before_the_rest(run):
    text = Reader(run.page()).text
    assert "5 more wins" in text
    assert "1 more losses" in text


@pytest.mark.parametrize(
    ("output", "folder"), [("runs", "'runs/r-1/model'"), ("s3://b/runs", "'model'"), ("a 'b'", '''"a 'b'/r-1/model"''')]
)
def test_the_page_says_how_to_use_the_model(run, output, folder):
    run.settings = Settings(output=output)
    text = Reader(run.page()).text
    assert f"model = SentenceTransformer({folder})" in text
    assert ("aws s3 cp --recursive s3://b/runs/r-1/model model" in text) == output.startswith("s3:")
