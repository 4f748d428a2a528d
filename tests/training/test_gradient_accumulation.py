"""In bf16 the gradients of many chunks add up as exactly as in fp32, whatever is trained and computed again."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.embedding.precision import autocast
from mnrl_job.system.record_files import write_record
from mnrl_job.training import memory, step_context
from mnrl_job.training.gradient_accumulation import cast_weights, fp32_accumulation
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.losses.contrastive_loss import LossConfig
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.training.trainer import PlannedTrainer
from tests.examples import FSDP2, PAIRS
from tests.training.batches import batch_of
from tests.training.operations import Operations
from tests.training.rank_processes import started

ROWS = 100


@pytest.fixture
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


@pytest.fixture
def trainer_of(tmp_path):
    """A trainer of one step, in which each text is a chunk: 200 of them."""
    texts = [(f"{PAIRS[i % 8][0]} {i}", f"{PAIRS[i % 8][1]} {i}") for i in range(ROWS)]
    write_columns(tmp_path / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(tmp_path / "labels.arrow", np.arange(2 * ROWS).reshape(2, ROWS).T)
    np.save(tmp_path / "plan.npy", np.arange(ROWS)[None])
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), ROWS, ROWS, {}, (), ())
    batch_plan = BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", 1)
    write_record(tmp_path / "pairs.json", pairs)
    write_record(tmp_path / "batching.json", batch_plan)

    def make(model, **settings):
        chosen = {"batch_size": ROWS, "mini_batch_size": 1, "learning_rate": 1e-3, "precision": "bf16"} | settings
        return PlannedTrainer(
            model,
            Settings().model_copy(update=chosen),
            TrainingData(pairs, batch_plan),
            AttemptFolders(tmp_path, tmp_path),
        )

    return make


def gradients(trainer, rows=ROWS):
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, trainer.data_collator([trainer.train_dataset[row] for row in range(rows)]))
    return {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}


def error(found, expected):
    difference = torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm()
    return float(difference / torch.stack([one.norm() for one in expected.values()]).norm())


@pytest.mark.parametrize(
    ("again", "settings"),
    [("nothing", {}), pytest.param("layers", {}, marks=pytest.mark.slow), ("chunks", {"lora_rank": 4})],
)
def test_the_gradients_of_200_chunks_are_those_of_fp32_accumulation(trainer_of, model, monkeypatch, settings, again):
    """Without its cache, autocast casts the weights for each chunk anew, so that autograd adds in fp32."""
    if again == "chunks":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
    trainer = trainer_of(model, gradient_checkpointing=again == "layers", **settings)
    found = gradients(trainer)
    monkeypatch.setattr(trainer, "_cast_weights", [])
    added_in_bf16 = gradients(trainer)
    exact = partial(torch.autocast, "cpu", torch.bfloat16, cache_enabled=False)
    monkeypatch.setattr(step_context, "autocast", lambda *_: exact())
    expected = gradients(trainer)
    assert found.keys() == expected.keys()
    assert error(found, expected) < 0.0005
    assert error(added_in_bf16, expected) > 0.003, "the case is one where it matters"


def test_gradients_of_a_sharded_model_are_accumulated_in_fp32(trainer_of, model, tiny_model, tmp_path):
    """Rounding in the forward pass stays, and within a chunk."""
    trainer = trainer_of(model, precision="fp32")
    expected = {name: gradient.clone() for name, gradient in gradients(trainer).items()}
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "fsdp.yaml").write_text(FSDP2)
    settings = trainer.settings.model_copy(update={"precision": "bf16"})
    (tmp_path / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    with started(tmp_path) as ranks:
        names = ranks.ask("sharded", tmp_path)
    ours, theirs = (torch.load(tmp_path / f"{name}-0.pt") for name in names)
    assert ours.keys() == theirs.keys()
    matrices = {name: one for name, one in expected.items() if ".layer." in name and one.dim() == 2}
    assert error(ours, matrices) < 0.03
    assert error(theirs, matrices) > 0.035, "the case is one where it matters"


def test_gradients_of_a_scaled_loss_in_fp16_are_those_of_fp32(model):
    """As the trainer's scaler has it on a GPU, whose fp16 a processor can imitate."""
    columns = [[f"{pair[side]} {mark}" for mark in range(6) for pair in PAIRS] for side in (0, 1)]
    labels = torch.tensor([[row, row, 100 + row] for row in range(len(columns[0]))])
    batch = batch_of(model, columns, 1, labels)
    with autocast("fp16", model.device):
        weights = cast_weights(model.eval(), batch["chunks"][:1])
    found = {}
    ways = {"exact": ("fp32", [], 1), "ours": ("fp16", weights, 2**10), "theirs": ("fp16", [], 2**10)}
    for name, (precision, used, scale) in ways.items():
        model.zero_grad()
        with autocast(precision, model.device), fp32_accumulation(model, used, torch.float16):
            (GlobalBatchLoss(model, LossConfig(20))(batch, labels) * scale).backward()
        found[name] = {one: weight.grad / scale for one, weight in model.named_parameters() if weight.grad is not None}
    assert error(found["ours"], found["exact"]) < 1e-4
    assert error(found["theirs"], found["exact"]) > 2e-4, "the case is one where it matters"


def test_in_fp32_nothing_is_cast(trainer_of, model):
    assert trainer_of(model, precision="fp32")._cast_weights == []


def test_weights_are_cast_once_a_step(trainer_of, model):
    """Not once for each of sixteen chunks."""
    trainer = trainer_of(model)
    with Operations() as done:
        gradients(trainer, 8)
    casts = Counter(id(source) for source, *_ in done.named("aten._to_copy.default"))
    assert [casts[id(one.weight)] for one in trainer._cast_weights] == [1] * 24


def test_after_a_step_or_failure_the_modules_have_their_own_weights(model):
    chunk = model.preprocess(["a text"])

    def fail():
        with fp32_accumulation(model, weights, torch.bfloat16):
            model(dict(chunk))
            assert all(getattr(one.module, one.name).dtype == torch.bfloat16 for one in weights)
            raise RuntimeError("the step failed")

    with autocast("bf16", model.device):
        weights = cast_weights(model.eval(), [chunk])
        with pytest.raises(RuntimeError, match="step failed"):
            fail()
    assert all(getattr(one.module, one.name) is one.weight for one in weights)
    assert not model._forward_pre_hooks


class Tied(torch.nn.Module):
    """One weight in a matrix product alone, another that is read as it is, too."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.alone, self.both = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, bias=False)

    def forward(self, features):
        return {"sentence_embedding": self.both(self.alone(features["x"])) * self.both.weight.sum()}


def test_a_weight_also_used_in_fp32_is_not_cast_once():
    model = Tied()
    with autocast("bf16", model.device):
        found = cast_weights(model, [{"x": torch.ones(2, 4)}])
    assert [(one.module, one.name) for one in found] == [(model.alone, "weight"), (model.alone, "bias")]
