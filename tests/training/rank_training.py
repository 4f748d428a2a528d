"""Trainings of one of several ranks: to the end, to a stop, with too little memory, or sharded."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.embedding.chunks import ChunkBudget
from mnrl_job.embedding.masks import embed
from mnrl_job.system import preemption
from mnrl_job.system.record_files import read_record
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.distributed import all_gather_ints, max_over_ranks
from mnrl_job.training.fsdp import apply_accelerate_config, enable_cpu_fsdp
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.losses import mnrl as loss_module
from mnrl_job.training.trainer import PlannedTrainer


class StopAt(TrainerCallback):
    """Save and stop after a step, as a pre-empted run would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.step


class BeforeUpdate(TrainerCallback):
    """Do something when all gradients of a step are there."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.act()


def train(
    folder: Path,
    stop_at: int,
    prepare: Callable[[SentenceTransformer], object] = id,
    checkpoint_spec: CheckpointSpec | None = None,
    before_update: Callable[[torch.nn.Module], None] | None = None,
) -> dict[str, object]:
    settings = read_record(folder / "settings.json", Settings)
    pairs, batch_plan = read_record(folder / "pairs.json", Pairs), read_record(folder / "batching.json", BatchPlan)
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    prepare(model)
    trainer = PlannedTrainer(
        model, settings, TrainingData(pairs, batch_plan), AttemptFolders(folder, folder), checkpoint_spec
    )
    if stop_at:
        trainer.add_callback(StopAt(stop_at))
    if before_update:
        trainer.args.max_grad_norm = 0
        trainer.add_callback(BeforeUpdate(partial(before_update, trainer.model)))
    checkpoints = sorted(folder.glob("trainer/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    done = {"step": trainer.state.global_step, "digest": trainer.progress.digest}
    return done | {"activation_recompute": math.isfinite(trainer.global_loss.activation_token_budget)}


def fail(*_: object) -> NoReturn:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def fail_in_forward(model: SentenceTransformer) -> None:
    """Wherever more than two texts are embedded at once."""
    model.register_forward_hook(lambda _, __, found: fail() if len(found["sentence_embedding"]) > 2 else None)


def fail_in_loss(_: SentenceTransformer) -> None:
    """At the first step."""
    contrast = loss_module.contrastive_loss

    def once(*_: object) -> NoReturn:
        loss_module.contrastive_loss = contrast
        fail()

    loss_module.contrastive_loss = once


def fail_in_backward(model: SentenceTransformer) -> None:
    model.transformers_model.get_input_embeddings().weight.register_hook(fail)


FAILURES = {"forward": fail_in_forward, "loss": fail_in_loss, "backward": fail_in_backward}


def unequal(folder: Path) -> dict[str, object]:
    """Train where ranks have different numbers of chunks: how many each, and what they told one another."""
    seen = {"chunks": 0, "buffers": 0, "messages": 0}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*given: Any, **named: Any) -> Any:
            seen[name] += 1
            return call(*given, **named)

        return count

    with pytest.MonkeyPatch.context() as patch:
        budget = 24 - 12 * PartialState().process_index
        patch.setattr("mnrl_job.training.setup.chunk_budget_for", lambda *_: ChunkBudget(budget, budget, 1))
        patch.setattr("mnrl_job.training.losses.mnrl.embed", counted("chunks", embed))
        wrapped = torch.nn.parallel.DistributedDataParallel
        patch.setattr(wrapped, "_sync_buffers", counted("buffers", wrapped._sync_buffers))
        patch.setattr("mnrl_job.training.losses.mnrl.all_gather_ints", counted("messages", all_gather_ints))
        patch.setattr("mnrl_job.training.distributed.max_over_ranks", counted("messages", max_over_ranks))
        done = train(folder, 2, checkpoint_spec=CheckpointSpec({}, (), None))
    ranks = [seen, seen]
    torch.distributed.all_gather_object(ranks, seen)
    return done | {"ranks": ranks}


def stopped(folder: Path) -> dict[str, object]:
    """Train while the second rank alone is asked to stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "stop_requested", lambda: PartialState().process_index == 1)
        done = train(folder, 0, checkpoint_spec=CheckpointSpec({}, (), None))
    steps: list[object] = [0, 0]
    torch.distributed.all_gather_object(steps, done["step"])
    return done | {"steps": steps}


def sharded(folder: Path) -> list[str]:
    """The gradients of one step of a model held in shares, as it is and as FSDP would add them up by itself."""
    apply_accelerate_config(str(folder / "fsdp.yaml"))
    enable_cpu_fsdp(PartialState())
    names = ["ours", "theirs"]
    for name in names:
        found = {}

        def keep(model: torch.nn.Module, found: dict[str, torch.Tensor] = found) -> None:
            weights = ((weight, one.grad) for weight, one in model.named_parameters() if one.grad is not None)
            found |= {weight: gradient.full_tensor() for weight, gradient in weights}

        with pytest.MonkeyPatch.context() as patch:
            if name == "theirs":
                patch.setattr("mnrl_job.training.step_context.sharded_fp32_accumulation", nullcontext)
            train(folder, 0, before_update=keep)
        torch.save(found, folder / f"{name}-{PartialState().process_index}.pt")
    return names


def fail_on_second_rank(folder: Path, moment: str) -> dict[str, object]:
    return train(folder, 0, FAILURES[moment] if PartialState().process_index == 1 else id)
