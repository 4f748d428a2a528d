"""Assumptions about a base model are logged, and nothing else."""

import pytest

from mnrl_job.embedding.assumptions import find_assumptions, log_assumptions
from mnrl_job.embedding.loading import ModelOptions, load, load_model
from mnrl_job.embedding.model_facts import Assumptions
from tests.embedding.folders import copied, t5, with_json

SETTINGS = "config_sentence_transformers.json"


def test_pooling_of_a_plain_transformer_is_assumed(tmp_path, caplog):
    assumed = load(str(t5(tmp_path / "m")), "MNRL_BASE_MODEL").assumed
    assert assumed.pooling == "mean"
    log_assumptions(assumed)
    assert "assuming mean pooling" in caplog.text


def test_a_model_of_another_kind_of_the_library_has_its_pooling_assumed_too(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / SETTINGS, model_type="CrossEncoder")
    assert load(str(folder), "MNRL_BASE_MODEL").assumed.pooling == "mean"


@pytest.mark.parametrize(
    ("prompts", "unused"),
    [
        ({}, ()),
        ({"query": "where is ", "document": ""}, ()),
        ({"query": "where is ", "document": "page ", "clustering": "sort "}, ()),
        ({"query": "where is ", "passage": "page "}, ("passage",)),
        ({"web_search": "where is ", "sts": "compare "}, ("sts", "web_search")),
    ],
)
def test_unused_prompts_are_logged(tiny_model, tmp_path, prompts, unused, caplog):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / SETTINGS, prompts=prompts)
    assumed = load_model(str(folder), ModelOptions()).assumed
    assert assumed.unused_prompts == unused
    log_assumptions(assumed)
    assert [name for name in unused if name not in caplog.text] == []
    assert bool(caplog.records) == bool(unused)


def test_configured_prompts_are_no_assumption(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / SETTINGS, prompts={"web_search": "where is "})
    options = ModelOptions(query_prompt="find ", document_prompt="")
    assert load_model(str(folder), options).assumed == Assumptions()


def test_a_default_prompt_is_used(tiny_model):
    model = load(str(tiny_model), "MNRL_BASE_MODEL").model
    model.prompts, model.default_prompt_name = {"any": "all "}, "any"
    assert find_assumptions(model) == Assumptions()
