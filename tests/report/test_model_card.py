"""The model card: metrics, usage and limitations, and no text of the data."""

import pytest

from mnrl_job.report.model_card import model_card
from tests.report.run_outputs import make_run_outputs


def test_the_card_has_metrics_usage_and_limitations_and_no_text_of_the_data(tmp_path):
    run = make_run_outputs(tmp_path, names=("faq", "general"))
    card = model_card(run.metrics)
    rows = [line for line in card.splitlines() if line.startswith(("| faq", "| general"))]
    assert {tuple(row.split(" | ")[:3]) for row in rows} == {
        (f"| {name}", metric, "0.1234") for name in ("faq", "general") for metric in ("mrr@10", "ndcg@10", "recall@10")
    }
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert "SentenceTransformer(" in card
    assert "Evaluated on `faq`, `general`; its quality on other kinds of texts" in card
    assert "is ignored" in card
    assert "about topic" not in card
    assert "document 3" not in card


def test_a_saturated_eval_set_is_a_limitation(tmp_path):
    run = make_run_outputs(tmp_path)
    assert "cannot show a gain" not in model_card(run.metrics)
    primary = run.metrics["primary_metric"] | {"before": 1.0, "saturated": True}
    expected = "The base model already had faq.ndcg@10 1.0000: this eval set cannot show a gain."
    assert expected in model_card(run.metrics | {"primary_metric": primary})


def test_a_run_without_evaluation_says_so(tmp_path):
    run = make_run_outputs(tmp_path)
    card = model_card(run.metrics | {"evaluation": {}, "primary_metric": None})
    assert "The model was not evaluated." in card
    assert "whether it is better than its base model is unknown" in card


@pytest.mark.parametrize("base_model", ["s3://bucket/foo@v2", "models/foo@v2"])
def test_a_base_model_outside_the_hub_is_named_but_not_in_the_card_metadata(tmp_path, monkeypatch, base_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "foo@v2").mkdir(parents=True)
    run = make_run_outputs(tmp_path, base_model=base_model)
    assert run.metrics["model"]["base"] == base_model
    card = model_card(run.metrics)
    assert f"from `{base_model}` by mnrl-job" in card
    assert "base_model:" not in card


def test_assumptions_about_the_base_model_are_listed(tmp_path):
    run = make_run_outputs(tmp_path)
    assert "assumed" not in model_card(run.metrics)
    run.metrics["model"]["adapter_of"] = "owner/base"
    run.metrics["model"]["assumed"] = {"pooling": "mean", "padding_token": "<end>", "unused_prompts": ["passage"]}
    card = model_card(run.metrics)
    assert "an adapter of `owner/base`, merged into it" in card
    for expected in ("mean pooling", "<end> for padding", "unused prompts passage"):
        assert f"- assumed of the base model: {expected}" in card
