"""On a GPU: the loss and gradients of the CPU, also in parts, and batches that come from other processes."""

import math

import numpy as np
import pytest
import torch
from accelerate import PartialState

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import RankRange
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import no_values
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.precision import autocast
from mnrl_job.training.hard_negatives.document_index import build_index
from mnrl_job.training.hard_negatives.mining import MiningConfig, find_candidates, search
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.losses.contrastive_loss import LossConfig
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.training.trainer import PlannedTrainer
from tests.embedding.texts import TEXTS, column
from tests.examples import PAIRS
from tests.training.batches import batch_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
COLUMNS = [list(column) for column in zip(*PAIRS, strict=True)]


def load(folder, device):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device=device)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("objective", ["mnrl", "symmetric", "gte"])
def test_value_and_gradients_are_those_of_the_cpu(tiny_model, objective, recompute):
    from accelerate.utils import send_to_device

    found = {}
    for device in ("cpu", "cuda"):
        model = load(tiny_model, device)
        loss = GlobalBatchLoss(model, LossConfig(20, objective))
        loss.activation_token_budget = 0 if recompute else math.inf
        labels = torch.tensor([[row, row, 100 + row % 7] for row in range(8)])
        batch = send_to_device(batch_of(load(tiny_model, "cpu"), COLUMNS, 3, labels), device)
        value = loss(batch, labels.to(device))
        value.backward()
        found[device] = [value.detach().cpu(), *(weight.grad.cpu() for weight in model.parameters())]
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-3, atol=1e-4)


# What rounding to so many bits may turn a gradient by: 1 less the cosine between it and the CPU's in fp32.
TURNED = {"fp32": 1e-5, "bf16": 0.02, "fp16": 0.002}


@pytest.mark.parametrize("precision", TURNED)
def test_gradients_point_where_those_of_the_cpu_do(tiny_model, precision):
    from accelerate.utils import send_to_device

    found = {}
    for device, of_device in (("cpu", "fp32"), ("cuda", precision)):
        model = load(tiny_model, device)
        labels = torch.tensor([[row, row, 100 + row] for row in range(8)])
        batch = send_to_device(batch_of(load(tiny_model, "cpu"), COLUMNS, 3, labels), device)
        with autocast(of_device, model.device):
            value = GlobalBatchLoss(model, LossConfig(20))(batch, labels.to(device))
        (value * 2**10).backward()  # as the trainer's scaler does for fp16
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found[device] = torch.cat([gradient.ravel().double().cpu() / 2**10 for gradient in gradients])
        assert found[device].isfinite().all()
    assert 1 - torch.cosine_similarity(found["cpu"], found["cuda"], dim=0) < TURNED[precision]
    assert found["cuda"].norm().item() == pytest.approx(found["cpu"].norm().item(), rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_the_trainer_does_not_wait_for_the_gpu(tiny_model, tmp_path, precision):
    """The first two may, which measure and make the optimizer's state."""
    steps = 6
    texts = [(f"{anchor} {mark}", f"{positive} {mark}") for mark in range(steps) for anchor, positive in PAIRS]
    write_columns(tmp_path / "pairs.arrow", anchor=[a for a, _ in texts], positive=[p for _, p in texts])
    write_labels(tmp_path / "labels.arrow", np.arange(2 * len(texts)).reshape(2, -1).T)
    np.save(tmp_path / "plan.npy", np.arange(len(texts)).reshape(steps, -1))
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), len(texts), len(texts), {}, (), ())
    batch_plan = BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", steps)
    settings = Settings(batch_size=len(PAIRS), precision=precision)
    trainer = PlannedTrainer(
        load(tiny_model, "cuda"), settings, TrainingData(pairs, batch_plan), AttemptFolders(tmp_path, tmp_path)
    )
    step, done = trainer.training_step, []

    def watched(*arguments, **options):
        torch.cuda.set_sync_debug_mode("error" if len(done) >= 2 else "default")
        try:
            return step(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            done.append(len(done))

    trainer.training_step = watched
    trainer.train()
    assert len(done) == steps


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_embeddings_are_those_of_the_cpu(tiny_model, tmp_path, precision):
    exact = encode(load(tiny_model, "cpu"), column(TEXTS), "query", "fp32", tmp_path / "cpu.arrow")
    found = encode(load(tiny_model, "cuda"), column(TEXTS), "query", precision, tmp_path / "cuda.arrow").cpu()
    assert (exact * found).sum(dim=1).min() > 0.999


def test_the_negatives_mined_are_those_of_the_cpu(tmp_path, monkeypatch):
    vectors = torch.nn.functional.normalize(torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    candidates = find_candidates(np.arange(100).reshape(2, 50).T, no_values(50), np.arange(50) % 7 == 0, np.arange(50))
    config = MiningConfig(3, RankRange(1, 100), 0.05)
    queries, documents = vectors.numpy()
    index = build_index(documents, tmp_path)
    (on_gpu,) = search(queries, index, candidates, config)
    with monkeypatch.context() as patch:
        patch.setattr(PartialState(), "device", torch.device("cpu"))
        (on_cpu,) = search(queries, index, candidates, config)
    for one, other in zip(on_cpu[1:], on_gpu[1:], strict=True):
        torch.testing.assert_close(other, one)
