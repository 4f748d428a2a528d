"""The model card: figures, use and limits, and no text of the data."""

import pytest

from mnrl_job.report.model_card import model_card
from tests.report.left_behind import left_behind


def test_it_tells_figures_beside_bm25_use_and_limits_and_no_text_of_the_data(tmp_path):
    run = left_behind(tmp_path, names=("faq", "general"))
    card = model_card(run.content)
    rows = [line for line in card.splitlines() if line.startswith(("| faq", "| general"))]
    assert {tuple(row.split(" | ")[:3]) for row in rows} == {
        (f"| {name}", metric, "0.1234") for name in ("faq", "general") for metric in ("mrr@10", "ndcg@10", "recall@10")
    }
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert "SentenceTransformer(" in card
    assert "It was measured on `faq`, `general`; what it does on other kinds of texts" in card
    assert "does not see" in card
    assert "about topic" not in card
    assert "document 3" not in card


def test_an_eval_set_that_cannot_show_a_gain_is_told(tmp_path):
    run = left_behind(tmp_path)
    assert "cannot show a gain" not in model_card(run.content)
    primary = run.content["primary_metric"] | {"before": 1.0, "saturated": True}
    told = "Its base model already had faq.ndcg@10 1.0000: this eval set cannot show a gain."
    assert told in model_card(run.content | {"primary_metric": primary})


def test_a_run_that_was_not_evaluated_says_so(tmp_path):
    run = left_behind(tmp_path)
    card = model_card(run.content | {"evaluation": {}, "primary_metric": None})
    assert "It was not evaluated." in card
    assert "whether it is better than its base model is not known" in card


@pytest.mark.parametrize("place", ["s3://bucket/foo@v2", "models/foo@v2"])
def test_a_base_model_that_the_hub_does_not_know_is_named_whole_and_not_told_to_the_hub(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "foo@v2").mkdir(parents=True)
    run = left_behind(tmp_path, base_model=place)
    assert run.content["model"]["base"] == place
    card = model_card(run.content)
    assert f"from `{place}` by mnrl-job" in card
    assert "base_model:" not in card


def test_what_was_assumed_of_the_base_model_and_what_it_was_is_told(tmp_path):
    run = left_behind(tmp_path)
    assert "assumed" not in model_card(run.content)
    run.content["model"]["adapter_of"] = "owner/base"
    run.content["model"]["assumed"] = {"pooling": "mean", "padding_token": "<end>", "unused_prompts": ["passage"]}
    card = model_card(run.content)
    assert "an adapter of `owner/base`, merged into it" in card
    for told in ("mean pooling", "<end> for padding", "no use for its prompts passage"):
        assert f"- assumed of the base model: {told}" in card
