"""Batches hold the texts of their rows, with prompts, tokenized when needed, in other processes too."""

import os

import numpy as np
import pytest
import torch

from mnrl_job.embedding.chunks import ChunkBudget, default_chunk_budget
from mnrl_job.embedding.loading import ModelOptions, load_model
from mnrl_job.embedding.masks import embed
from mnrl_job.training import token_columns
from mnrl_job.training.collator import TextCollator, TokenCollator, build_collator
from tests.examples import PAIRS


def test_batches_hold_the_texts_of_their_rows(run, model, static_model):
    """The embeddings of all columns, put in order, are those of the texts of the rows."""
    rows = [{"label": [row, row, 100 + row]} for row in (5, 0, 17)]
    for one, kind in ((model, TokenCollator), (static_model, TextCollator)):
        collate = build_collator(one, run.pairs, default_chunk_budget(torch.device("cpu")))
        assert isinstance(collate, kind)
        batch = collate(rows)
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
        texts = [f"{PAIRS[row % 8][0]} {'abcd'[row // 8]}" for row in (5, 0, 17)]
        texts += [PAIRS[row % 8][1] for row in (5, 0, 17)]
        torch.testing.assert_close(found, one.encode(texts, convert_to_tensor=True), rtol=1e-5, atol=1e-6)
        assert batch["label"].tolist() == [row["label"] for row in rows]


@pytest.mark.parametrize("in_mean", [True, False])
def test_anchors_and_documents_get_their_prompts(run, model, static_model, in_mean):
    """Of different length, which the model must know where they do not count in the mean."""
    model.set_pooling_include_prompt(in_mean)
    rows = [{"label": [row, row, 100 + row]} for row in (5, 0, 17)]
    anchors = [f"{PAIRS[row % 8][0]} {'abcd'[row // 8]}" for row in (5, 0, 17)]
    positives = [PAIRS[row % 8][1] for row in (5, 0, 17)]
    for one, prompts in ((model, ("where is my ", "open a ")), (static_model, ("b c ", "c "))):
        one.prompts = dict(zip(("query", "document"), prompts, strict=True))
        batch = build_collator(one, run.pairs, ChunkBudget(100, 4, 1))(rows)
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
        queries, documents = (
            encode(texts, convert_to_tensor=True)
            for encode, texts in ((one.encode_query, anchors), (one.encode_document, positives))
        )
        torch.testing.assert_close(found, torch.cat([queries, documents]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, one.encode(anchors + positives, convert_to_tensor=True), atol=1e-3)


def test_columns_with_prompts_of_equal_length_share_chunks(run, model):
    model.prompts = {"query": "where is ", "document": "open a "}
    rows = [{"label": [row, row, 100 + row]} for row in range(8)]
    assert len(build_collator(model, run.pairs, ChunkBudget(1000, 100, 1000))(rows)["chunks"]) == 1


def test_batches_can_be_collated_in_a_data_loader_process(run, model):
    """As they do for a GPU."""
    collate = build_collator(model, run.pairs, default_chunk_budget(torch.device("cpu")))
    rows = [{"label": [row, row, 100 + row]} for row in range(8)]
    (found,) = torch.utils.data.DataLoader(rows, batch_size=8, num_workers=1, collate_fn=collate)
    expected = collate(rows)
    assert torch.equal(found["order"], expected["order"])
    for one, other in zip(found["chunks"], expected["chunks"], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_a_data_loader_process_can_tokenize_after_a_fork(run, static_model, monkeypatch):
    """A tokenizer that has used its threads before a fork waits for them in the copy, where they are not."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    static_model.preprocess(["a b c"] * 100)
    collate = build_collator(static_model, run.pairs, default_chunk_budget(torch.device("cpu")))
    rows = [{"label": [row, row, 100 + row]} for row in range(32)]
    loader = torch.utils.data.DataLoader(rows, batch_size=32, num_workers=1, collate_fn=collate, timeout=20)
    (found,) = loader
    for one, other in zip(found["chunks"], collate(rows)["chunks"], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true", "here as before"


def test_a_flash_attention_model_is_pretokenized_and_chunked(run, tiny_model, tmp_path, monkeypatch):
    """The library would have it read all texts in one row. Attention itself is another's here, for want of a GPU."""
    import transformers.modeling_flash_attention_utils as flash
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer

    monkeypatch.setattr(Transformer, "_is_flash_attention_requested", lambda _: True)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _: ((None, print, None, None), None))
    theirs = SentenceTransformer(str(tiny_model), device="cpu")
    assert "attention_mask" not in theirs.preprocess(["a text"]), "the library's way"
    ours = load_model(str(tiny_model), ModelOptions()).model
    assert isinstance(build_collator(ours, run.pairs, ChunkBudget(100, 4, 1)), TokenCollator)
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    ours.save_pretrained(str(tmp_path / "ours"), create_model_card=False)
    saved = [(tmp_path / name / "sentence_bert_config.json").read_text() for name in ("ours", "theirs")]
    assert saved[0] == saved[1]


def test_a_batch_has_the_same_tokens_whenever_they_are_made(run, model, monkeypatch):
    rows = [{"label": [row, row, 100 + row]} for row in range(32)]
    expected = build_collator(model, run.pairs, ChunkBudget(100, 4, 1))(rows)
    monkeypatch.setattr(token_columns, "SAMPLED_TEXTS", 5)
    collate = build_collator(model, run.pairs, ChunkBudget(100, 4, 1))
    collate.longest = max(chunk["input_ids"].shape[1] for chunk in expected["chunks"])
    batch = collate(rows)
    assert (batch["tokens"], batch["padded_tokens"]) == (expected["tokens"], expected["padded_tokens"])
    for chunk, other in zip(batch["chunks"], expected["chunks"], strict=True):
        assert torch.equal(chunk["input_ids"], other["input_ids"])


def test_only_a_sample_is_tokenized_before_the_first_batch_and_then_only_what_a_batch_needs(run, model, monkeypatch):
    monkeypatch.setattr(token_columns, "SAMPLED_TEXTS", 5)
    made = []
    token_ids = token_columns.token_ids
    monkeypatch.setattr(token_columns, "token_ids", lambda how, texts: made.extend(texts) or token_ids(how, texts))
    collate = build_collator(model, run.pairs, ChunkBudget(100, 4, 1))
    assert len(made) == 2 * 5
    made.clear()
    collate([{"label": [row, row, 100 + row]} for row in (0, 1, 2, 31)])
    anchors = [f"{PAIRS[row][0]} a" for row in (1, 2)]
    assert made == anchors + [PAIRS[row][1] for row in (1, 2)], "the first and the last row are in the sample"


def test_a_text_longer_than_the_sample_is_whole(run, model, monkeypatch):
    monkeypatch.setattr(token_columns, "SAMPLED_TEXTS", 1)
    collate = build_collator(model, run.pairs, ChunkBudget(100, 4, 1))
    assert collate.longest < max(map(len, collate.columns[1].read(np.arange(32))))
    batch = collate([{"label": [row, row, 100 + row]} for row in range(32)])
    assert batch["tokens"] == sum(int(chunk["attention_mask"].sum()) for chunk in batch["chunks"])
    assert batch["tokens"] == collate.count_tokens(np.arange(32))
