"""Embeddings equal the library's, on one rank and on two."""

import json
import shutil

import pytest
import torch

from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import choose_precision, cpu_has_bf16
from mnrl_job.embedding.prompts import find_prompt
from mnrl_job.errors import EnvironmentFailure
from tests.embedding.texts import TEXTS, column


@pytest.mark.parametrize("kind", ["query", "document"])
def test_queries_and_documents_with_their_prompts_equal_the_librarys(model, tmp_path, kind):
    model.prompts = {"query": "where is my ", "passage": "open ", "other": "change "}
    library = model.encode_query if kind == "query" else model.encode_document
    theirs = library(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    for _ in range(2):  # the second time with the tokens of the first
        ours = encode(model, column(TEXTS), kind, "fp32", tmp_path / "tokens.arrow")
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_tokens_with_one_prompt_are_not_taken_for_those_with_another(model, tmp_path):
    found = []
    for prompt in ("", "where is my ", "open "):
        model.prompts["query"] = prompt
        theirs = model.encode_query(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
        found.append(encode(model, column(TEXTS), "query", "fp32", tmp_path / "tokens.arrow"))
        torch.testing.assert_close(found[-1], theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[1], found[2], atol=1e-3)


def test_the_default_prompt_serves_where_a_kind_has_none(model):
    model.prompts, model.default_prompt_name = {"any": "all "}, "any"
    assert find_prompt(model, "query") == "all "
    model.prompts, model.default_prompt_name = {"corpus": "page ", "document": "text "}, None
    assert find_prompt(model, "document") == "text "
    assert find_prompt(model, "query") is None


def test_a_model_of_another_kind_is_encoded_by_the_library(static_model, tmp_path):
    ours = encode(static_model, column(["a b", "c", "b"]), "query", "fp32", tmp_path / "tokens.arrow")
    theirs = static_model.encode_query(["a b", "c", "b"], convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(ours, theirs)
    assert not (tmp_path / "tokens.arrow").exists()


@pytest.mark.parametrize("ranks", ["two_ranks", "three_ranks"])
def test_ranks_share_the_work_and_all_know_all(request, ranks, tmp_path, tiny_model, model):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    found = request.getfixturevalue(ranks).ask("encode", tmp_path)
    ours = encode(model, column(TEXTS), "document", "fp32", tmp_path / "tokens.arrow")
    torch.testing.assert_close(torch.tensor(found["embeddings"]), ours, rtol=1e-5, atol=1e-6)
    assert 0 < found["texts"] < len(TEXTS)


def test_auto_is_bf16_where_the_processor_multiplies_it():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == ("bf16" if cpu_has_bf16() else "fp32")
    assert choose_precision("bf16", cpu) == "bf16"
    with pytest.raises(EnvironmentFailure, match=r"^MNRL_PRECISION=fp16 "):
        choose_precision("fp16", cpu)


def test_bf16_embeds_nearly_the_same_in_fp32(model, tmp_path):
    exact = encode(model, column(TEXTS), "query", "fp32", tmp_path / "tokens.arrow")
    rounded = encode(model, column(TEXTS), "query", "bf16", tmp_path / "tokens.arrow")
    assert rounded.dtype == torch.float32
    assert (exact * rounded).sum(dim=1).min() > 0.999
    assert not torch.equal(exact, rounded)
