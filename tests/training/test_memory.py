"""Memory of activations is measured and extrapolated, and training recomputes what does not fit."""

import math

import numpy as np
import pytest
import torch

from mnrl_job.data.tables import read_table
from mnrl_job.embedding.chunks import ChunkBudget
from mnrl_job.embedding.precision import autocast
from mnrl_job.errors import SettingsError
from mnrl_job.training import memory
from mnrl_job.training.collator import build_collator
from tests.training.four_steps import PLAN


def test_activation_memory_is_measured_with_padding(run, model):
    """Without anything to mask, attention keeps less."""
    collate = build_collator(model.train(), run.pairs, ChunkBudget(100, 100, 1))
    text = collate.extremes[1]
    features = (collate.columns[0].input_format.features([text] * copies, len(text)) for copies in (1, 2))
    one, two = (memory.saved_bytes(model, copies) for copies in features)
    assert memory.bytes_per_token(model, collate) > (two - one) / len(text)


def test_tokens_are_counted_for_the_largest_slice_of_a_batch(run, model):
    collate = build_collator(model, run.pairs, ChunkBudget(100, 100, 1))
    lengths = np.array([collate.count_tokens(np.array([row])) for row in range(32)])
    texts = [read_table(run.pairs.path)[name][9].as_py() for name in ("anchor", "positive")]
    assert lengths[9] == sum(len(model.tokenizer(text)["input_ids"]) for text in texts)
    plan = np.array([[0, 1, 2, 3], [8, 9, 10, 12]])
    assert memory.max_tokens_per_rank(collate, plan, 1) == lengths[plan].sum(axis=1).max()
    assert memory.max_tokens_per_rank(collate, plan, 2) == max(lengths[half].sum() for half in plan.reshape(-1, 2))
    thirds = [share for one, two, three, four in plan for share in ([one], [two], [three, four])]
    assert memory.max_tokens_per_rank(collate, plan, 3) == max(lengths[third].sum() for third in thirds)


def test_the_largest_batch_of_a_long_plan_is_found_by_its_texts(run, model, monkeypatch):
    """As where long texts are rare, and of a source of their own."""
    monkeypatch.setattr(memory, "SAMPLED_ROWS", 4)
    collate = build_collator(model, run.pairs, ChunkBudget(100, 100, 1))
    by_length = np.argsort(collate.bytes_of_rows(), kind="stable")
    plan = np.concatenate([np.tile(by_length[:4], (50, 1)), by_length[None, -4:], np.tile(by_length[:4], (50, 1))])
    assert memory.max_tokens_per_rank(collate, plan, 1) == collate.count_tokens(by_length[-4:])


def test_activations_are_kept_if_they_fit_beside_gradients_and_optimizer_state(run, model, monkeypatch):
    collate = build_collator(model.train(), run.pairs, ChunkBudget(100, 100, 1))
    tokens = memory.MAX_PADDING_RATIO * memory.max_tokens_per_rank(collate, PLAN, 2)
    needed = tokens * memory.bytes_per_token(model, collate) / memory.HOST_FRACTION
    trained = 12 * sum(weight.numel() for weight in model.parameters())
    for free, enough in ((needed + trained + 10, math.inf), (needed + trained - 10, 0)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: 2 * free)
        assert memory.activation_token_budget(model, collate, PLAN, ranks=2) == enough


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_memory_does_not_change_dropout(run, model, tiny_model, monkeypatch, precision):
    """Training goes on from the seed, whether or not anything was tried before."""
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    _, losses = run(model, precision=precision)
    monkeypatch.setattr("mnrl_job.training.trainer.activation_token_budget", lambda *_: math.inf)
    monkeypatch.setattr("mnrl_job.training.trainer.PlannedTrainer._find_cast_weights", lambda *_: [])
    _, other_losses = run(other, precision=precision)
    assert other_losses == pytest.approx(losses, abs=1e-5 if precision == "fp32" else 1e-3)


def test_activations_are_counted_once_and_cast_weights_are_not(run, model):
    """Each layer keeps some tens of numbers for each hidden unit of a token; the weights in bf16 would be far more."""
    collate = build_collator(model.train(), run.pairs, ChunkBudget(100, 100, 1))
    hidden, layers = 32, 2
    with autocast("bf16", model.device):
        rounded = memory.bytes_per_token(model, collate)
    assert layers * 10 * hidden * 2 < rounded < memory.bytes_per_token(model, collate) < layers * 50 * hidden * 4


def test_with_gradient_checkpointing_only_layer_inputs_are_counted(run, model):
    collate = build_collator(model.train(), run.pairs, ChunkBudget(100, 100, 1))
    kept = memory.bytes_per_token(model, collate)
    memory.checkpoint_layers(model)
    hidden, layers = 32, 2
    assert layers * hidden * 4 < memory.bytes_per_token(model, collate) < kept / 3


def test_gradient_checkpointing_without_supporting_layers_is_refused(run, static_model):
    with pytest.raises(SettingsError, match=r"^MNRL_GRADIENT_CHECKPOINTING=true: "):
        run(static_model, gradient_checkpointing=True)
