"""Tokens on disk give the model exactly the input that the library's preprocessing gives."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.embedding import tokens
from mnrl_job.embedding.tokens import (
    PADDED,
    InputFormat,
    detect_input_format,
    read_tokens,
    tokenize_in_calls,
    write_tokens,
)
from tests.examples import PAIRS

TEXTS = [text for pair in PAIRS for text in pair] + ["", "zzz 日本", "word " * 100]


@pytest.fixture(scope="module")
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


def kept(model, texts, path, preprocess=None):
    preprocess = preprocess or model.preprocess
    form = detect_input_format(preprocess, model.tokenizer, texts)
    write_tokens(partial(tokenize_in_calls, preprocess), pa.chunked_array([pa.array(texts)]), path)
    return read_tokens(path, form)


def assert_same(built, expected):
    assert built[PADDED] == (not expected["attention_mask"].all())
    assert built.keys() == expected.keys() | {PADDED}
    for name, value in expected.items():
        assert torch.equal(built[name], value) if torch.is_tensor(value) else built[name] == value


@given(rows=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6))
def test_features_equal_the_librarys_preprocessing(model, tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tokens") / "tokens.arrow"
    found = kept(model, TEXTS, path)
    expected = dict(model.preprocess([TEXTS[row] for row in rows]))
    assert_same(found.features(np.array(rows), expected["input_ids"].shape[1]), expected)
    assert found.lengths.tolist() == [int(model.preprocess([text])["attention_mask"].sum()) for text in TEXTS]


def test_texts_are_found_again_beyond_the_first_part(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "TEXTS_PER_BATCH", 4)
    monkeypatch.setattr(tokens, "TEXTS_PER_CALL", 3)
    found = kept(model, TEXTS, tmp_path / "tokens.arrow")
    assert len(found.parts) == 5
    for row, text in enumerate(TEXTS):
        assert found[row].tolist() == model.preprocess([text])["input_ids"][0].tolist()


def test_a_prompt_and_padding_on_the_left_are_the_librarys_too(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.tokenizer.padding_side = "left"

    preprocess = partial(model.preprocess, prompt="is there ")

    found = kept(model, TEXTS, tmp_path / "tokens.arrow", preprocess)
    expected = dict(preprocess([TEXTS[0], TEXTS[5]]))
    assert_same(found.features(np.array([0, 5]), expected["input_ids"].shape[1]), expected)


@pytest.mark.parametrize("left", [True, False])
def test_a_text_of_no_tokens_is_all_padding(left):
    form = InputFormat(("input_ids", "attention_mask"), 9, left, {})
    found = form.features([np.array([], dtype=np.int32), np.array([5, 6], dtype=np.int32)], 2)
    assert found["input_ids"].tolist() == [[9, 9], [5, 6]]
    assert found["attention_mask"].tolist() == [[0, 0], [1, 1]]


def test_a_model_without_token_ids_has_no_input_format(static_model):
    assert detect_input_format(static_model.preprocess, static_model.tokenizer, ["a b", "b"]) is None


def test_an_input_format_that_does_not_rebuild_the_input_is_rejected(model):
    def strange(texts, **options):
        features = model.preprocess(texts, **options)
        return features if options else features | {"token_type_ids": torch.ones_like(features["input_ids"])}

    def more(texts, **options):
        return model.preprocess(texts, **options) | {"more": torch.ones(3)}

    def padded(texts, **_):
        return model.preprocess(texts)

    assert detect_input_format(model.preprocess, model.tokenizer, TEXTS) is not None
    assert detect_input_format(strange, model.tokenizer, TEXTS) is None
    assert detect_input_format(more, model.tokenizer, TEXTS) is None
    assert detect_input_format(padded, model.tokenizer, TEXTS[:1] * 2) is None
