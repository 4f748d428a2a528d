"""Tokenizer and embeddings belong together, and every text can be padded."""

import pytest
import torch

from mnrl_job.embedding.loading import load
from mnrl_job.embedding.vocabulary import check_vocabulary
from mnrl_job.errors import DataError
from tests.embedding.folders import TEXTS, copied, gpt2, t5, with_json, with_weights, xlmr

FAMILIES = {"bert": None, "xlm-roberta": xlmr, "t5": t5, "gpt2": gpt2}


def refused(folder, match):
    with pytest.raises(DataError, match=match) as caught:
        load(str(folder), "MNRL_BASE_MODEL")
    assert "damaged" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_tokenizer_files_is_refused(tiny_model, tmp_path, family):
    make = FAMILIES[family]
    folder = make(tmp_path / "m") if make else copied(tiny_model, tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    refused(folder, "no tokenizer files")


def test_a_token_without_an_embedding_is_refused_and_named(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    folder = copied(tiny_model, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens("kickstand")
    tokenizer.save_pretrained(folder)
    refused(folder, "'kickstand'")


def grown(weights, rows):
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    more = torch.zeros(rows - len(weights[name]), weights[name].shape[1])
    return weights | {name: torch.cat([weights[name], more])}


def with_rows(tiny_model, folder, rows):
    with_weights(copied(tiny_model, folder), lambda weights: grown(weights, rows))
    with_json(folder / "config.json", vocab_size=rows)
    return folder


def test_a_padded_matrix_is_fine_and_one_twice_as_large_is_another_models(tiny_model, tmp_path, caplog):
    from transformers import AutoTokenizer

    tokens = len(AutoTokenizer.from_pretrained(tiny_model))
    load(str(with_rows(tiny_model, tmp_path / "padded", tokens + 3)), "MNRL_BASE_MODEL")
    assert not caplog.records
    load(str(with_rows(tiny_model, tmp_path / "large", tokens * 3 // 2)), "MNRL_BASE_MODEL")
    assert "may be another model's" in caplog.text
    refused(
        with_rows(tiny_model, tmp_path / "other", tokens * 2 + 1), rf"\b{tokens} tokens .*\b{tokens * 2 + 1} embeddings"
    )


def test_a_model_without_layers_is_looked_at_too(static_model):
    check_vocabulary(static_model, "a model")
    static_model.tokenizer.add_tokens(["more"])
    with pytest.raises(DataError, match=r"^a model: .*'more'.*\b3\b.*\b3 embeddings"):
        check_vocabulary(static_model, "a model")


def test_a_tokenizer_without_padding_pads_with_its_end_and_changes_no_embedding(tmp_path):
    loaded = load(str(gpt2(tmp_path / "m")), "MNRL_BASE_MODEL")
    assert (loaded.assumed.padding_token, loaded.model.tokenizer.pad_token) == ("<end>", "<end>")
    together, alone = loaded.model.encode(TEXTS), [loaded.model.encode(text) for text in TEXTS]
    assert max(abs(one - other).max() for one, other in zip(together, alone, strict=True)) < 1e-5


def test_the_padding_that_the_config_means_goes_before_the_end(tmp_path):
    folder = gpt2(tmp_path / "m")
    with_json(folder / "config.json", pad_token_id=5)
    loaded = load(str(folder), "MNRL_BASE_MODEL")
    assert loaded.model.tokenizer.pad_token_id == 5


def test_a_tokenizer_with_padding_is_left_alone(tiny_model):
    assert load(str(tiny_model), "MNRL_BASE_MODEL").assumed.padding_token is None
