"""A guide's embeddings are looked up by row, and each distinct text was embedded once."""

import numpy as np
import pytest
import torch

from mnrl_job.embedding.chunks import chunk_limit
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import write_columns
from mnrl_job.training import guide as module
from mnrl_job.training.collate import collator
from mnrl_job.training.guide import embed_by_guide, read_guide
from tests.conftest import PAIRS

ANCHORS = [anchor for anchor, _ in PAIRS]
POSITIVES = [positive for _, positive in PAIRS[:7]] + [PAIRS[0][1]]
NEGATIVES = [PAIRS[(row + 1) % 8][1] for row in range(7)] + [""]


@pytest.fixture
def pairs(tmp_path):
    write_columns(tmp_path / "pairs.arrow", anchor=ANCHORS, positive=POSITIVES, negative=NEGATIVES)
    return Pairs(tmp_path / "pairs.arrow", ("anchor", "positive", "negative"), 8, 8, {}, (), ())


@pytest.fixture
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


@pytest.mark.parametrize("at_once", [3, 100])
def test_the_guide_has_its_own_prompts_and_each_distinct_text_once(model, pairs, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(module, "EMBEDDED_AT_ONCE", at_once)
    model.prompts = {"query": "where is my ", "document": "open "}
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    embed_by_guide(model, pairs, np.arange(8).reshape(2, 4), "fp32", tmp_path / "guide")
    assert sum(seen) == len(set(ANCHORS)) + len({*POSITIVES, *NEGATIVES})
    guide, rows = read_guide(tmp_path / "guide"), [7, 0, 3]
    found = guide.of([(column, rows) for column in range(3)])
    wanted = {"convert_to_tensor": True, "normalize_embeddings": True}
    for column, texts in enumerate((ANCHORS, POSITIVES, NEGATIVES)):
        encode = model.encode_document if column else model.encode_query
        expected = encode([texts[row] for row in rows], **wanted)
        torch.testing.assert_close(found[:, column], expected, rtol=1e-5, atol=1e-6)


def test_only_texts_of_planned_rows_are_embedded(model, pairs, tmp_path):
    embed_by_guide(model, pairs, np.array([[5, 2]]), "fp32", tmp_path / "guide")
    guide = read_guide(tmp_path / "guide")
    assert (len(guide.queries), len(guide.documents)) == (2, 4)
    expected = model.encode([ANCHORS[5], NEGATIVES[2]], convert_to_tensor=True, normalize_embeddings=True)
    found = torch.stack([guide.of([(0, [5])])[0, 0], guide.of([(2, [2])])[0, 0]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_batches_bring_what_the_guide_found_for_their_rows(model, static_model, pairs, tmp_path):
    embed_by_guide(model, pairs, np.arange(8).reshape(1, 8), "fp32", tmp_path / "guide")
    for one in (model, static_model):
        collate = collator(one, pairs, chunk_limit(torch.device("cpu")), tmp_path / "tokens")
        collate.guide = read_guide(tmp_path / "guide")
        batch = collate([{"label": [row, row, row, row]} for row in (6, 1)])
        assert torch.equal(batch["guide"], collate.guide.of([(column, [6, 1]) for column in range(3)]))
