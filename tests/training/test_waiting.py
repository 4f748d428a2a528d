"""The host waits for the device nowhere while a batch is embedded, compared and learnt from. It sends it one tensor."""

import math
from contextlib import contextmanager, nullcontext

import pyarrow as pa
import pytest
import torch

from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.flat_buffer import flatten, to_host, unflatten
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.precision import autocast
from mnrl_job.embedding.tokens import PADDED
from mnrl_job.training import trainer
from mnrl_job.training.gradient_accumulation import cast_weights, fp32_accumulation
from mnrl_job.training.losses.contrastive_loss import LossConfig
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from tests.embedding.folders import FAMILIES, of_family
from tests.examples import PAIRS
from tests.training.batches import batch_of
from tests.training.operations import Operations

COLUMNS = [list(column) for column in zip(*PAIRS, strict=True)]
LABELS = torch.tensor([[row, row, 100 + row] for row in range(8)])
READING = tuple(
    f"aten.{name}"
    for name in (
        "_local_scalar_dense.default",
        "_unique2.default",
        "bincount.default",
        "masked_select.default",
        "nonzero.default",
        "repeat_interleave.Tensor",
    )
)
# Tensors that are compared or made of numbers: waited for, too, unless they stay on the host.
AMBIGUOUS = ("aten.equal.default", "aten.lift_fresh.default")
READERS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero")


class NoWaiting(Operations):
    """Fails where a GPU would have to finish its work before the host can go on."""

    def __init__(self, refused=READING):
        super().__init__()
        self.refused = refused

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert str(func) not in self.refused, f"{func} is waited for"
        if str(func) in ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default"):
            kinds = {index.dtype for index in args[1] if index is not None}
            assert torch.bool not in kinds, "how many are selected is known on the device alone"
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def unread(refused=READING + AMBIGUOUS):
    """Nobody may read a tensor either."""

    def refuse(name):
        def fail(*_, **__):
            raise AssertionError(f"Tensor.{name} reads from the device")

        return fail

    with pytest.MonkeyPatch.context() as patch, NoWaiting(refused) as done:
        for name in READERS:
            patch.setattr(torch.Tensor, name, refuse(name))
        yield done


def with_padding_known(batch):
    for chunk in batch["chunks"]:
        chunk[PADDED] = not bool(chunk["attention_mask"].all())
    return batch


@pytest.mark.parametrize("kept_tokens", [math.inf, 0])
@pytest.mark.parametrize("objective", ["mnrl", "symmetric", "gte"])
def test_loss_and_gradients_are_computed_without_waiting(model, objective, kept_tokens):
    batch = with_padding_known(batch_of(model, COLUMNS, 3, LABELS))
    assert {chunk[PADDED] for chunk in batch["chunks"]} == {True, False}
    loss = GlobalBatchLoss(model.train(), LossConfig(20, objective))
    loss.activation_token_budget, loss.collect_stats = kept_tokens, True
    with unread():
        loss(batch, LABELS).backward()


@pytest.mark.parametrize(("family", "implementation"), [*((family, "sdpa") for family in FAMILIES), ("bert", "eager")])
def test_no_kind_of_model_has_the_host_wait(tiny_model, tmp_path, family, implementation):
    """Of padded chunks and of full ones, also where they are embedded again for their gradient."""
    model = of_family(family, tiny_model, tmp_path / "backbone").train()
    model.transformers_model.set_attn_implementation(implementation)
    for kept_tokens in (math.inf, 0):
        batch = with_padding_known(batch_of(model, COLUMNS, 3, LABELS))
        assert {chunk[PADDED] for chunk in batch["chunks"]} == {True, False}
        loss = GlobalBatchLoss(model, LossConfig(20))
        loss.activation_token_budget = kept_tokens
        with unread(READING):  # Gemma and DeBERTa make numbers that stay on the host
            loss(batch, LABELS).backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_the_trainer_is_sent_off_without_waiting(run, model, monkeypatch, precision):
    """From the packed batch to the gradients; without what only a CPU needs."""
    step, done = trainer.PlannedTrainer.training_step, []

    def watched(*arguments):
        with unread() as operations:
            found = step(*arguments)
        done.append(len(operations.calls))
        return found

    monkeypatch.setattr("mnrl_job.training.step_context.fast_dropout", nullcontext)
    monkeypatch.setattr(trainer.PlannedTrainer, "training_step", watched)
    run(model, precision=precision)
    assert len(done) == 4
    assert min(done) > 100


@pytest.mark.parametrize("padded", [True, False])
def test_a_full_chunk_is_known_to_flash_attention_too(padded):
    """It takes a padding mask, or none for what is not padded."""
    from transformers import BertConfig
    from transformers.masking_utils import create_bidirectional_mask

    config = BertConfig(hidden_size=8, num_attention_heads=2)
    config._attn_implementation = "flash_attention_2"
    mask = torch.tensor([[1, 1, 1], [1, 1, 1 - padded]])

    def model(features):
        return {"sentence_embedding": create_bidirectional_mask(config, torch.zeros(2, 3, 8), features["mask"])}

    assert (embed(model, {"mask": mask, PADDED: padded}) is not None) == padded
    if not padded:
        with NoWaiting():
            embed(model, {"mask": mask, PADDED: padded})


def test_a_corpus_is_embedded_without_waiting_for_each_chunk(model, monkeypatch, tmp_path):
    """Once at the end, to see that all are numbers."""
    texts = pa.chunked_array([pa.array([text for pair in PAIRS for text in pair] * 3)])
    monkeypatch.setattr("mnrl_job.embedding.encode.check_finite", lambda *_: None)
    encode(model, texts, "document", "fp32", tmp_path / "tokens.arrow")
    with NoWaiting() as done:
        encode(model, texts, "document", "fp32", tmp_path / "tokens.arrow")
    assert len(done.named("aten.index_put_.default")) > 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_that_is_known_changes_no_embedding(tiny_model, implementation):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(tiny_model), device="cpu", model_kwargs={"attn_implementation": implementation}
    ).eval()
    for texts in (["one two", "three"], ["one two", "two one"]):
        features = model.preprocess(texts)
        expected = model(dict(features))["sentence_embedding"]
        padded = not bool(features["attention_mask"].all())
        assert torch.equal(embed(model, features | {PADDED: padded}), expected)
        assert torch.equal(model(dict(features))["sentence_embedding"], expected), "afterwards as before"


@pytest.mark.parametrize("padded", [True, False])
def test_a_causal_model_keeps_its_mask(padded):
    from transformers import Qwen3Config, Qwen3Model

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=20, num_key_value_heads=1, head_dim=8, pad_token_id=0, **sizes)
    backbone = Qwen3Model(config).eval()

    def model(features):
        return {"sentence_embedding": backbone(**features).last_hidden_state}

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1 - padded]])
    features = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), "attention_mask": mask}
    assert torch.equal(embed(model, features | {PADDED: padded}), embed(model, features))


def test_a_batch_is_one_tensor_whatever_it_holds(run, model):
    """So it reaches the device in one copy, and the other process in one file."""
    from mnrl_job.embedding.chunks import ChunkBudget
    from mnrl_job.training.collator import FlatBufferCollator, build_collator

    collate = build_collator(model, run.pairs, ChunkBudget(40, 3, 1))
    rows = [{"label": [row, row, 100 + row]} for row in range(16)]
    flat = FlatBufferCollator(collate)(rows)
    assert sum(torch.is_tensor(one) for one in flat.values()) == 1
    found, expected = unflatten(flat), collate(rows)
    assert len(found["chunks"]) == len(expected["chunks"]) > 5
    for one, other in zip([found, *found["chunks"]], [expected, *expected["chunks"]], strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if torch.is_tensor(value):
                assert torch.equal(one[name], value)
                assert one[name].dtype == value.dtype
            elif name != "chunks":
                assert one[name] == value


def test_tensors_of_every_width_come_back_as_they_were():
    mixed = [torch.tensor(2.5), torch.ones(3, dtype=torch.bool), {"a": torch.zeros(0, 3, dtype=torch.int64)}, "text"]
    mixed += [torch.arange(5), torch.randn(2, 3).T, torch.ones(1, dtype=torch.bfloat16)]
    found = to_host(mixed)
    assert found[3] == "text"
    torch.testing.assert_close(found[:2] + found[4:], mixed[:2] + mixed[4:], rtol=0, atol=0)
    assert found[2]["a"].shape == (0, 3)
    assert flatten(mixed)["buffer"].dim() == 1


@pytest.mark.parametrize(("precision", "per_chunk", "per_step"), [("fp32", 325, 340), ("bf16", 370, 410)])
def test_a_chunk_and_a_step_take_no_more_operations_than_they_did(model, precision, per_chunk, per_step):
    """Of two layers: a GPU waits for the host to start each of them, so that more would cost time."""
    with autocast(precision, model.device):
        weights = cast_weights(model.eval(), [model.preprocess(["a text"])]) if precision == "bf16" else []
    counts = {}
    for rows_at_once in (1, 4):
        batch = with_padding_known(batch_of(model.train(), COLUMNS, rows_at_once, LABELS))
        model.zero_grad()
        cast = fp32_accumulation(model, weights, torch.bfloat16)
        with Operations() as done, autocast(precision, model.device), cast:
            GlobalBatchLoss(model, LossConfig(20))(batch, LABELS).backward()
        counts[len(batch["chunks"])] = len(done.calls)
    (few, least), (many, most) = sorted(counts.items())
    slope = (most - least) / (many - few)
    assert slope <= per_chunk
    assert least - few * slope <= per_step


@pytest.mark.parametrize("texts", [["one two", "three"], ["one two", "two one"]], ids=["padded", "full"])
def test_attention_drops_out_as_the_model_says(model, texts):
    """With no other dropout, two draws differ; and a seed repeats them."""
    for module in model.modules():
        if type(module).__name__ == "BertSelfAttention":
            module.dropout.p = 0.3
    features = model.train().preprocess(texts)
    known = features | {PADDED: not bool(features["attention_mask"].all())}

    def draw(seed):
        torch.manual_seed(seed)
        return embed(model, known)

    assert torch.equal(draw(1), draw(1))
    assert not torch.allclose(draw(1), draw(2), atol=1e-4)
    assert torch.equal(draw(1), embed_by_library(model, features, 1))


def embed_by_library(model, features, seed):
    torch.manual_seed(seed)
    return model(dict(features))["sentence_embedding"]
