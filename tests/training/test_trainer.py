"""A training run in this process: memory, loss options, prompts and LoRA."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.utils.data import get_worker_info

from mnrl_job.config.setting_types import Hardness
from mnrl_job.embedding.loading import ModelOptions, load_model
from mnrl_job.training import memory, token_columns, trainer
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.guide import FOLDER, embed_by_guide
from mnrl_job.training.lora import merged
from mnrl_job.training.token_lengths import measure_lengths
from tests.training.four_steps import PLAN


def weights(model):
    return torch.cat([weight.detach().ravel() for weight in model.parameters()])


def test_chunk_size_and_recomputation_do_not_change_the_result(run, model, tiny_model, monkeypatch):
    from sentence_transformers import SentenceTransformer

    kept, losses = run(model)
    assert (kept.activation_recompute, kept.rows_digest, kept.rows_used) == (False, data_order_digest(PLAN), 32)
    assert kept.padded_tokens > kept.tokens > 0
    assert 0 < kept.seconds_waited < kept.seconds
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    other = SentenceTransformer(str(tiny_model), device="cpu")
    recomputed, other_losses = run(other, mini_batch_size=1)
    assert recomputed.activation_recompute
    assert recomputed.tokens == kept.tokens
    assert recomputed.padded_tokens < kept.padded_tokens
    assert other_losses == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-4)


@pytest.fixture
def loader_processes(monkeypatch):
    """Two, as for a GPU, which tokenize all but one text of each column."""

    def args_with_loaders(*arguments):
        args = build_training_args(*arguments)
        args.dataloader_num_workers, args.dataloader_prefetch_factor = 2, 1
        return args

    build_training_args = trainer.build_training_args
    monkeypatch.setattr(trainer, "build_training_args", args_with_loaders)
    monkeypatch.setattr(token_columns, "SAMPLED_TEXTS", 1)


def test_training_is_the_same_with_batches_tokenized_in_other_processes(run, model, tiny_model, request):
    expected = run(model)[1]
    request.getfixturevalue("loader_processes")
    other = load_model(str(tiny_model), ModelOptions()).model
    assert run(other)[1] == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("loader_processes")
def test_a_tokenizing_process_that_is_killed_ends_the_training(run, model, monkeypatch):
    """At once, not as a hang."""

    def read(self, indices):
        if get_worker_info() and 9 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_before(self, indices)

    read_before = token_columns.TokenColumn.read
    monkeypatch.setattr(token_columns.TokenColumn, "read", read)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        run(model)
    assert (run.folder / "training_log.jsonl").read_text().count('"step"') <= 1


def test_a_model_without_token_ids_is_trained(run, static_model):
    before = weights(static_model).clone()
    trained, losses = run(static_model)
    assert trained.tokens == trained.padded_tokens == 0
    assert len(losses) == 4
    assert not torch.equal(weights(static_model), before)


def test_token_lengths_include_prompts(run, model):
    before = measure_lengths(model, run.pairs).columns
    model.prompts = {"query": "where is my ", "document": "open "}
    after = measure_lengths(model, run.pairs).columns
    more = {name: after[name]["p100"] - before[name]["p100"] for name in before}
    assert more == {"anchor": 3, "positive": 1}


def test_token_lengths_are_measured_in_columns_over_2_gib(run, model, huge, monkeypatch):
    monkeypatch.setattr("mnrl_job.training.token_lengths.read_table", lambda _: huge)
    monkeypatch.setattr("mnrl_job.training.token_lengths.SAMPLED_ROWS", 4)
    assert measure_lengths(model, replace(run.pairs, rows=huge.num_rows)).columns["anchor"]["p100"] == 3


def test_hardness_changes_the_losses(run, tiny_model):
    ways = (None, Hardness("all_negatives", 9), Hardness("in_batch_negatives", 5))
    losses = [run(load_model(str(tiny_model), ModelOptions()).model, hardness=hardness)[1] for hardness in ways]
    assert len({tuple(one) for one in losses}) == 3


def test_configured_prompts_train_like_the_models_own(run, model, tiny_model, tmp_path):
    model.prompts = {"query": "where is my ", "document": "open "}
    model.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    configured = ModelOptions(query_prompt="where is my ", document_prompt="open ")
    overridden = ModelOptions(query_prompt="add ")
    cases = {"without": (tiny_model, ModelOptions()), "configured": (tiny_model, configured)}
    cases |= {"own": (tmp_path / "prompted", ModelOptions()), "overridden": (tmp_path / "prompted", overridden)}
    trained = {}
    for name, (folder, options) in cases.items():
        prompted = load_model(str(folder), options).model
        run(prompted)
        trained[name] = weights(prompted)
    assert torch.equal(trained["own"], trained["configured"])
    assert not torch.equal(trained["own"], trained["without"])
    assert not torch.equal(trained["own"], trained["overridden"])


def test_a_guide_model_masks_some_documents(run, model, tiny_model, tmp_path):
    """It finds all texts alike that share words with the query: it takes some documents out, not all."""
    embed_by_guide(load_model(str(tiny_model), ModelOptions()).model, run.pairs, PLAN, "fp32", tmp_path / FOLDER)
    trained, _ = run(model, loss="guided")
    assert 0 < trained.masked_per_anchor < 7


@pytest.mark.parametrize("again", ["layers", "chunks", "both"])
def test_recomputed_activations_give_the_same_training(run, model, tiny_model, monkeypatch, again):
    """Also with dropout, which must fall alike both times."""
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    _, losses = run(model)
    if again != "layers":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
    trained, other_losses = run(other, gradient_checkpointing=again != "chunks")
    assert trained.activation_recompute == (again != "layers")
    assert other_losses == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("again", ["nothing", "layers", "chunks"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lora_trains_the_adapter_while_the_model_is_frozen(run, model, tiny_model, monkeypatch, again, precision):
    from sentence_transformers import SentenceTransformer

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = {"lora_rank": 4, "learning_rate": 0.02}
    expected = run(SentenceTransformer(str(tiny_model), device="cpu"), **settings)[1]
    if again == "chunks":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
    trained, losses = run(model, precision=precision, gradient_checkpointing=again == "layers", **settings)
    assert losses == pytest.approx(expected, abs=1e-5 if precision == "fp32" else 0.05)
    assert losses[-1] < losses[0] - 0.1
    assert trained.activation_recompute == (again == "chunks")
    moved = {name: weight for name, weight in model.named_parameters() if ".lora_" in name}
    assert trained.trainable_parameters == sum(weight.numel() for weight in moved.values())
    assert all(weight.abs().sum() > 0 for weight in moved.values())
    plain = merged(model, SentenceTransformer(str(tiny_model), device="cpu"))
    still = [name for name, weight in plain.named_parameters() if "LayerNorm" in name or "embeddings" in name]
    assert still
    assert all(torch.equal(plain.state_dict()[name], before[name]) for name in still)
