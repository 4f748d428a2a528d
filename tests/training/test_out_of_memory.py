"""A step that runs out of device memory is retried with less, or the error says what to set."""

import math
import re

import pytest
import torch

from mnrl_job.errors import OutOfMemory
from mnrl_job.training.data_order_digest import data_order_digest
from tests.training.four_steps import PLAN


def weights(model):
    return torch.cat([weight.detach().ravel() for weight in model.parameters()])


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fail_in_loss(monkeypatch):
    """Have the loss itself run out of memory so many times."""

    def arrange(times):
        from mnrl_job.training.losses import mnrl

        contrast, failed = mnrl.contrastive_loss, []

        def fail(*arguments):
            if len(failed) < times:
                failed.append(arguments)
                raise OUT_OF_MEMORY
            return contrast(*arguments)

        monkeypatch.setattr(mnrl, "contrastive_loss", fail)

    return arrange


@pytest.mark.parametrize("moment", ["forward", "loss", "backward", "end of backward"])
def test_a_step_that_runs_out_of_memory_is_retried_with_less(run, model, tiny_model, fail_in_loss, moment):
    from sentence_transformers import SentenceTransformer

    _, losses = run(SentenceTransformer(str(tiny_model), device="cpu"))
    failed = []

    def fail(tensor):
        failed.append(len(tensor))
        raise OUT_OF_MEMORY

    def watch(_, __, found):
        embeddings = found["sentence_embedding"]
        if len(embeddings) > 2 and moment == "forward":
            fail(embeddings)
        if len(embeddings) > 2 and embeddings.requires_grad and moment == "backward":
            embeddings.register_hook(fail)

    model.register_forward_hook(watch)
    if moment == "end of backward":  # when most weights have their gradient already
        words = model.transformers_model.get_input_embeddings().weight
        words.register_hook(lambda gradient: fail(gradient) if len(failed) < 2 else None)
    if moment == "loss":
        fail_in_loss(2)
    trained, other_losses = run(model)
    assert trained.activation_recompute
    assert moment == "loss" or len(failed) >= 2
    assert trained.rows_digest == data_order_digest(PLAN)
    assert trained.masked_per_anchor == 0
    assert other_losses == pytest.approx(losses, abs=1e-5)


def test_each_reduction_of_memory_is_logged(run, model, monkeypatch):
    """Half of the activations, none, then smaller chunks; until two texts at a time are few enough."""
    messages = []
    monkeypatch.setattr("mnrl_job.training.trainer.warn", messages.append)
    monkeypatch.setattr("mnrl_job.training.trainer.activation_token_budget", lambda *_: math.inf)

    def fail_if_many(_, __, found):
        if len(found["sentence_embedding"]) > 2:
            raise OUT_OF_MEMORY

    model.register_forward_hook(fail_if_many)
    run(model, mini_batch_size=4)
    ways = [
        "enabling activation recomputation beyond N tokens per batch",
        "enabling activation recomputation",
        "enabling activation recomputation; splitting chunks in 2",
    ]
    logged = [re.sub(r"\d+ tokens", "N tokens", message) for message in messages]
    assert logged == [f"out of device memory at step 1: {way}; retrying the step" for way in ways]


def test_a_retry_draws_the_same_dropout(run, model, tiny_model, fail_in_loss):
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    run(model)
    fail_in_loss(1)
    assert run(other)[0].activation_recompute
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-6)


def test_out_of_memory_with_a_model_without_token_ids_says_what_to_set(run, static_model, fail_in_loss):
    fail_in_loss(1)
    with pytest.raises(OutOfMemory, match=r"allocate 2\.00 GiB.*MNRL_BATCH_SIZE"):
        run(static_model)


def test_out_of_memory_on_a_single_text_quotes_the_device(run, model):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_hook(fail)
    with pytest.raises(OutOfMemory, match=r"one text.*\b2\.00 GiB.*MNRL_MAX_SEQ_LENGTH"):
        run(model)
