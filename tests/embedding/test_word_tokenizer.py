"""Texts tokenized word by word have the token ids that the library gives them."""

from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import pre_tokenizers

from mnrl_job.embedding import word_tokenizer
from mnrl_job.embedding.tokens import choose_tokenize, tokenize_in_calls
from mnrl_job.embedding.word_tokenizer import WordTokenizer, splits_at_spaces
from tests.examples import PAIRS

# Whitespace that is none to Unicode or to BERT, marks that combine with a space, and special tokens.
PARTS = [*" \t\n\r\x00\x0b\x1c\x85\xa0\u3000\u200b\u0301\ufffd,.'-", "[SEP]", "[MASK]", "[sep]", "日本", "É", "İ", "ﬁ"]
WORDS = sorted({word for pair in PAIRS for text in pair for word in text.split()})
TEXTS = st.lists(st.sampled_from(PARTS + WORDS) | st.text(max_size=8), max_size=30).map("".join)


@pytest.fixture(scope="module")
def model(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.max_seq_length = 24
    return model


def column(texts):
    return pa.chunked_array([pa.array(texts, pa.string())])


def by_library(model, texts, prompt=None):
    return tokenize_in_calls(partial(model.preprocess, prompt=prompt), texts).to_pylist()


@given(texts=st.lists(TEXTS, max_size=5), prompt=st.sampled_from([None, "query: ", "no space after"]))
def test_ids_are_the_librarys(model, texts, prompt):
    tokenize = choose_tokenize(model, partial(model.preprocess, prompt=prompt), prompt)
    assert isinstance(tokenize, WordTokenizer)
    assert tokenize(column(texts)).to_pylist() == by_library(model, column(texts), prompt)


def test_words_that_were_forgotten_are_tokenized_again(model, monkeypatch):
    monkeypatch.setattr(word_tokenizer, "MAX_WORDS", 3)
    monkeypatch.setattr(word_tokenizer, "LONGEST_KNOWN", 4)
    tokenize = choose_tokenize(model, model.preprocess, None)
    texts = column([text for pair in PAIRS for text in pair])
    parts = [tokenize(texts.slice(row, 1)) for row in range(len(texts))]
    assert pa.concat_arrays(parts).to_pylist() == by_library(model, texts)


def test_long_texts_are_tokenized_in_parts(model, monkeypatch):
    monkeypatch.setattr(word_tokenizer, "BYTES_PER_CALL", 40)
    tokenize = choose_tokenize(model, model.preprocess, None)
    texts = column(["", *(text for pair in PAIRS for text in pair), "word " * 100, ""])
    assert tokenize(texts).to_pylist() == by_library(model, texts)


def test_a_tokenizer_that_looks_beyond_spaces_is_left_to_the_library(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    assert splits_at_spaces(model.tokenizer.backend_tokenizer)
    model.tokenizer.add_tokens(["track my"])
    assert not splits_at_spaces(model.tokenizer.backend_tokenizer)
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not isinstance(choose_tokenize(model, model.preprocess, None), WordTokenizer)


def test_a_model_that_changes_texts_itself_is_left_to_the_library(model):
    def reversed_texts(texts, **options):
        return model.preprocess([text[::-1] for text in texts], **options)

    assert not isinstance(choose_tokenize(model, reversed_texts, None), WordTokenizer)


@pytest.mark.parametrize("limit", [1, 2, 3, 256])
def test_texts_are_truncated_as_the_library_does_at_any_length(tiny_model, limit):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.max_seq_length = limit
    texts = column(["", "a", "track my order again"])
    assert choose_tokenize(model, model.preprocess, None)(texts).to_pylist() == by_library(model, texts)
