"""A guide's embeddings are looked up by row, and each distinct text was embedded once."""

import numpy as np
import pytest
import torch

from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, offsets_of
from mnrl_job.data.tables import write_columns
from mnrl_job.embedding import embedding_files
from mnrl_job.embedding.chunks import default_chunk_budget
from mnrl_job.embedding.masks import embed
from mnrl_job.training.collator import build_collator
from mnrl_job.training.guide import embed_by_guide, read_guide
from tests.examples import PAIRS

ANCHORS = [anchor for anchor, _ in PAIRS]
POSITIVES = [positive for _, positive in PAIRS[:7]] + [PAIRS[0][1]]
NEGATIVES = [[PAIRS[(row + 1) % 8][1], f"not {row}"][: row % 3] for row in range(8)]
EVERY = [text for texts in NEGATIVES for text in texts]


@pytest.fixture
def pairs(tmp_path):
    write_columns(tmp_path / "pairs.arrow", anchor=ANCHORS, positive=POSITIVES, negatives=NEGATIVES)
    return Pairs(tmp_path / "pairs.arrow", ("anchor", "positive", "negatives"), 8, 8, {}, (), ())


@pytest.mark.parametrize("at_once", [3, 100])
def test_the_guide_has_its_own_prompts_and_each_distinct_text_once(model, pairs, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(embedding_files, "TEXTS_PER_PART", at_once)
    model.prompts = {"query": "where is my ", "document": "open "}
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    embed_by_guide(model, pairs, np.arange(8).reshape(2, 4), "fp32", tmp_path / "guide")
    assert sum(seen) == len(set(ANCHORS)) + len({*POSITIVES, *EVERY})
    guide, rows = read_guide(tmp_path / "guide", pairs.columns), np.array([6, 0, 3])
    found = guide.embeddings([(column, rows) for column in range(3)])
    wanted = {"convert_to_tensor": True, "normalize_embeddings": True}
    expected = [
        (model.encode_document if column else model.encode_query)([texts[row] for row in rows], **wanted)
        for column, texts in enumerate((ANCHORS, POSITIVES, EVERY))
    ]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_only_texts_of_planned_rows_are_embedded(model, pairs, tmp_path):
    embed_by_guide(model, pairs, np.array([[5, 2, 3]]), "fp32", tmp_path / "guide")
    guide = read_guide(tmp_path / "guide", pairs.columns)
    assert (len(guide.queries), len(guide.documents)) == (3, 3 + 4 - 1), "a negative of one row is another's positive"
    expected = model.encode([ANCHORS[5], EVERY[2]], convert_to_tensor=True, normalize_embeddings=True)
    found = guide.embeddings([(0, np.array([5])), (2, np.array([2]))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_batches_bring_what_the_guide_found_for_their_rows(model, static_model, pairs, tmp_path):
    embed_by_guide(model, pairs, np.arange(8).reshape(1, 8), "fp32", tmp_path / "guide")
    given = Ragged(np.arange(100, 100 + len(EVERY)), offsets_of(np.array([len(texts) for texts in NEGATIVES])))
    for one in (model, static_model):
        collate = build_collator(one, pairs, default_chunk_budget(torch.device("cpu")), given)
        collate.guide = read_guide(tmp_path / "guide", pairs.columns)
        batch = collate([{"label": [row, row, 10 + row]} for row in (5, 0, 4)])
        texts = [row[5] for row in (ANCHORS, POSITIVES)] + NEGATIVES[5] + NEGATIVES[4]
        assert batch["negatives"].tolist() == [[5, 5, 104], [5, 5, 105], [4, 4, 103]]
        assert len(batch["guide"]) == 9
        expected = model.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
        torch.testing.assert_close(batch["guide"][[0, 3, 6, 7, 8]], expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
        expected = one.encode(texts, convert_to_tensor=True)
        torch.testing.assert_close(found[[0, 3, 6, 7, 8]], expected, rtol=1e-5, atol=1e-6)
