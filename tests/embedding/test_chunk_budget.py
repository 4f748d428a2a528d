"""On a GPU chunks follow the model and the memory; on a CPU, and where somebody sets them, they do not."""

import sys

import pytest
import torch

from mnrl_job.embedding.chunk_budget import MIN_TOKENS, ModelSize, chunk_budget_for, gpu_chunk_budget
from mnrl_job.embedding.chunks import ChunkBudget, default_chunk_budget

MINILM = ModelSize(weights=10_800_000, tensors=100, width=384, layers=6)
BASE = ModelSize(weights=85_600_000, tensors=194, width=768, layers=12)
LARGE = ModelSize(weights=303_000_000, tensors=386, width=1024, layers=24)
BILLIONS = ModelSize(weights=7_000_000_000, tensors=290, width=4096, layers=32)
H200, GIB = 132, 2**30


def test_the_smaller_the_model_the_more_tokens_it_takes_to_fill_a_gpu():
    limits = [gpu_chunk_budget(size, H200, 130 * GIB) for size in (MINILM, BASE, LARGE, BILLIONS)]
    assert [one.tokens for one in limits] == sorted((one.tokens for one in limits), reverse=True)
    assert [one.overhead for one in limits] == sorted((one.overhead for one in limits), reverse=True)
    assert limits[0].tokens >= 4 * limits[2].tokens
    assert limits[3].tokens == MIN_TOKENS
    assert limits[3].overhead < 100 < 4_000 < limits[0].overhead


@pytest.mark.parametrize("size", [MINILM, BASE, LARGE])
def test_activations_of_a_chunk_take_a_part_of_the_memory_that_is_free(size):
    full = gpu_chunk_budget(size, H200, 130 * GIB)
    short = gpu_chunk_budget(size, H200, 2 * GIB)
    assert short.tokens <= full.tokens
    assert short.tokens * 34 * size.width * size.layers <= GIB / 2 or short.tokens == MIN_TOKENS
    assert gpu_chunk_budget(size, H200, 0).tokens == MIN_TOKENS


def test_a_little_more_or_less_of_free_memory_changes_nothing():
    assert gpu_chunk_budget(BASE, H200, 8 * GIB) == gpu_chunk_budget(BASE, H200, 8 * GIB + 300_000_000)


def test_fewer_processors_are_filled_by_fewer_tokens():
    assert gpu_chunk_budget(BASE, 40, 15 * GIB).overhead < gpu_chunk_budget(BASE, H200, 15 * GIB).overhead


def test_a_cpu_and_a_number_that_is_set_are_left_as_they_are(tiny_model):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    assert (
        chunk_budget_for(model, torch.device("cpu"))
        == default_chunk_budget(torch.device("cpu"))
        == ChunkBudget(1_024, 1_024, 100)
    )
    assert chunk_budget_for(model, torch.device("cuda"), 7) == ChunkBudget(
        sys.maxsize, 7, default_chunk_budget(torch.device("cuda")).overhead
    )


def test_what_is_read_of_a_model_is_its_weights_without_tables(tiny_model, monkeypatch):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (GIB, 2 * GIB))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("", (), {"multi_processor_count": 100}))
    seen = []
    monkeypatch.setattr("mnrl_job.embedding.chunk_budget.gpu_chunk_budget", lambda *given: seen.append(given))
    chunk_budget_for(model, torch.device("cuda"))
    tables = sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Embedding))
    weights = sum(each.numel() for each in model.parameters()) - tables
    assert seen == [(ModelSize(weights, 36, 32, 2), 100, GIB)]
