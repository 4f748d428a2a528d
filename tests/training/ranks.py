"""One of several ranks, see `rank_processes.py`; it does what each line of its input asks for.

`loss` gives the value of our loss and of the library's, `objective` that of ours for an objective, `encode` what texts
are embedded to, `train` trains from the last checkpoint in a folder, if there is one, up to a step, and gives the
digest of the rows; so does `short`, where the second rank has memory for two texts at a time, or runs out of it once in
the loss or in the backward pass, where it ends as a worker does; `mine` gives the hard negatives, `gather` rows and
their gradients, `sharded` writes gradients of a model held in shares, `hosts` gives what processors tell one another.
Only the first rank answers.
"""

import json
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import all_gather_with_grad as library_gather
from transformers import TrainerCallback

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import no_values
from mnrl_job.data.tables import read_groups
from mnrl_job.embedding.chunks import ChunkBudget, chunk_by_length
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.launch.error_files import worker_main
from mnrl_job.system import preemption
from mnrl_job.system.record_files import read_record
from mnrl_job.training import distributed
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.collator import Batch
from mnrl_job.training.distributed import all_gather_with_grad, any_rank, max_over_ranks, numbers_of_ranks
from mnrl_job.training.fsdp import apply_accelerate_config, shard_on_processors
from mnrl_job.training.hard_negatives.mining import distinct, mine
from mnrl_job.training.losses import mnrl as loss_module
from mnrl_job.training.losses.contrastive_loss import Objective
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.training.trainer import PlannedTrainer
from mnrl_job.worker.main import explain


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
    keeping: CheckpointSpec | None = None,
    before_update: Callable[[torch.nn.Module], None] | None = None,
) -> dict[str, object]:
    settings = read_record(folder / "settings.json", Settings)
    pairs, batching = read_record(folder / "pairs.json", Pairs), read_record(folder / "batching.json", BatchPlan)
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    prepare(model)
    trainer = PlannedTrainer(model, settings, pairs, batching, folder, folder, keeping)
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


def loss(
    folder: Path, whose: tuple[str, ...] = ("ours", "theirs"), objective: Objective = "mnrl"
) -> dict[str, dict[str, object]]:
    """Each rank has its slice of the rows; the library gathers as we do."""
    state = PartialState()
    texts = json.loads((folder / "columns.json").read_text())
    groups = torch.tensor(json.loads((folder / "groups.json").read_text()))
    own = rank_slice(len(groups), state.process_index, state.num_processes)
    model = SentenceTransformer(str(folder / "model"), device="cpu").double()
    found = {}
    for name, one in {
        "ours": GlobalBatchLoss(model, 20, objective, state.process_index),
        "theirs": MultipleNegativesRankingLoss(model, scale=20, gather_across_devices=True),
    }.items():
        if name not in whose:
            continue
        model.zero_grad()
        columns = [column[own] for column in texts]
        batch: Any = list(map(model.preprocess, columns))
        label = torch.cat([torch.arange(len(groups))[own, None], groups[own]], dim=1)
        if name == "ours":
            batch = batch_of(model, columns, 3, label)
            batch |= {"guide": guide_of(batch, label)} if objective == "guided" else {}
        value = one(batch, label[:, :3])
        value.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        # The trainer averages over the ranks.
        summed = [_mean(gradient) for gradient in [value.detach(), *gradients]]
        found[name] = {"value": summed[0].item(), "gradients": np.concatenate([g.ravel() for g in summed[1:]]).tolist()}
        if isinstance(one, GlobalBatchLoss):
            found[name]["negatives"] = one.counts.negatives
    return found


def batch_of(model: SentenceTransformer, columns: list[list[str]], rows_at_once: int, labels: torch.Tensor) -> Batch:
    """What the collator makes of these rows; an empty text stands for no negative.

    Args:
        model: whose input it is.
        columns: texts of each column.
        rows_at_once: texts of a chunk.
        labels: number of each row and the group of the text in each column, shape (rows, 1 + columns).
    """
    there = [torch.tensor([bool(text) for text in column]) for column in columns]
    columns = [[text for text in column if text] for column in columns]
    negatives = [labels[kept][:, [0, 1, at]] for at, kept in enumerate(there[2:], 3)]
    texts = [text for column in columns for text in column]
    lengths = model.preprocess(texts)["attention_mask"].sum(dim=1).numpy()
    chunks = [chunk.rows for chunk in chunk_by_length(lengths, ChunkBudget(10**6, rows_at_once, 1), lengths.max())]
    padded = [model.preprocess([texts[row] for row in chunk]) for chunk in chunks]
    return {
        "chunks": padded,
        "order": torch.from_numpy(np.concatenate(chunks).argsort()),
        "negatives": torch.cat([labels[:0, :3], *negatives]),
        "tokens": int(lengths.sum()),
        "padded_tokens": sum(chunk["input_ids"].numel() for chunk in padded),
    }


def guide_of(batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    """What some guide makes of the texts of a batch: each group points in a direction of its own."""
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = torch.cat([labels[:, 1], labels[:, 2], batch["negatives"][:, 2]])
    return torch.nn.functional.normalize(directions[groups])


def embeddings(folder: Path) -> dict[str, object]:
    """All embeddings, and how many texts this rank has embedded."""
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    texts = pa.chunked_array([json.loads((folder / "texts.json").read_text())])
    found = encode(model, texts, "document", "fp32", folder / "of-two.arrow")
    return {"embeddings": found.tolist(), "texts": sum(seen)}


def negatives(folder: Path) -> dict[str, object]:
    """What is mined, and how many texts this rank has embedded."""
    pairs, batching = read_record(folder / "pairs.json", Pairs), read_record(folder / "batching.json", BatchPlan)
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    texts = distinct(
        read_groups(batching.labels), no_values(pairs.rows), np.zeros(pairs.rows, dtype=bool), np.arange(pairs.rows)
    )
    found = mine(model, pairs, texts, read_record(folder / "settings.json", Settings), folder / "mining")
    return {
        "rows": found.rows.tolist(),
        "similarity": found.similarity,
        "positive_similarity": found.positive_similarity,
        "embedded": sum(seen),
    }


def sharded(folder: Path) -> list[str]:
    """The gradients of one step of a model held in shares, as it is and as FSDP would add them up by itself."""
    apply_accelerate_config(str(folder / "fsdp.yaml"))
    shard_on_processors(PartialState())
    names = ["ours", "theirs"]
    for name in names:
        found = {}

        def keep(model: torch.nn.Module, found: dict[str, torch.Tensor] = found) -> None:
            weights = ((weight, one.grad) for weight, one in model.named_parameters() if one.grad is not None)
            found |= {weight: gradient.full_tensor() for weight, gradient in weights}

        with pytest.MonkeyPatch.context() as patch:
            if name == "theirs":
                patch.setattr("mnrl_job.training.trainer.sharded_fp32_accumulation", nullcontext)
            train(folder, 0, before_update=keep)
        torch.save(found, folder / f"{name}-{PartialState().process_index}.pt")
    return names


def _mean(tensor: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor / PartialState().num_processes


def gather() -> dict[str, object]:
    """The rows of two ranks and the gradient of the first one's.

    Ours get their rows, and what flows back to them, column by column in memory. The library confuses the values then.
    """
    rank = PartialState().process_index
    found = {}
    for name, gathered, laid in [
        ("ours", all_gather_with_grad, lambda tensor: tensor.T.contiguous().T),
        ("theirs", library_gather, torch.clone),
    ]:
        own = laid(torch.arange(4.0).reshape(2, 2) + 10 * rank).requires_grad_()
        rows = gathered(own)
        rows.backward(laid(torch.arange(8.0).reshape(4, 2) * (1 + rank)))
        found[name] = {"rows": rows.tolist(), "gradient": own.grad.tolist()}
    return found


def unequal(folder: Path) -> dict[str, object]:
    """Train where ranks have different numbers of chunks: how many each, and what they told one another."""
    seen = {"chunks": 0, "buffers": 0, "messages": 0}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*given: Any, **named: Any) -> Any:
            seen[name] += 1
            return call(*given, **named)

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnrl_job.training.trainer.limit_for", lambda *_: ChunkBudget(24, 24, 1))
        patch.setattr("mnrl_job.training.losses.mnrl.embed", counted("chunks", embed))
        wrapped = torch.nn.parallel.DistributedDataParallel
        patch.setattr(wrapped, "_sync_buffers", counted("buffers", wrapped._sync_buffers))
        patch.setattr("mnrl_job.training.losses.mnrl.numbers_of_ranks", counted("messages", numbers_of_ranks))
        patch.setattr("mnrl_job.training.distributed.max_over_ranks", counted("messages", max_over_ranks))
        done = train(folder, 2, keeping=CheckpointSpec({}, (), None))
    ranks = [seen, seen]
    torch.distributed.all_gather_object(ranks, seen)
    return done | {"ranks": ranks}


def stopped(folder: Path) -> dict[str, object]:
    """Train while the second rank alone is asked to stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "stop_requested", lambda: PartialState().process_index == 1)
        done = train(folder, 0, keeping=CheckpointSpec({}, (), None))
    steps: list[object] = [0, 0]
    torch.distributed.all_gather_object(steps, done["step"])
    return done | {"steps": steps}


SHORT_IN = {"forward": fail_in_forward, "loss": fail_in_loss, "backward": fail_in_backward}


def hosts() -> dict[str, object]:
    """What processors say where there are GPUs, as this one plays; and how long they wait for one another."""
    rank, backend = PartialState().process_index, torch.distributed.get_backend
    torch.distributed.get_backend = lambda: "nccl"
    try:
        distributed.open_host_group(timedelta(seconds=77))
        group = distributed._hosts
        found = {
            "most": max_over_ranks(rank),
            "numbers": numbers_of_ranks([10 + rank, rank]),
            "all": any_rank(rank == 1),
        }
    finally:
        torch.distributed.get_backend, distributed._hosts = backend, None
    seconds = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    return found | {"seconds": seconds, "world": group is torch.distributed.group.WORLD}


def short(folder: Path, moment: str) -> dict[str, object]:
    return train(folder, 0, SHORT_IN[moment] if PartialState().process_index == 1 else id)


ROLES = {
    "loss": lambda folder, *whose: loss(Path(folder), whose or ("ours", "theirs")),
    "objective": lambda folder, objective: loss(Path(folder), ("ours",), objective)["ours"],
    "encode": lambda folder: embeddings(Path(folder)),
    "train": lambda folder, stop_at: train(Path(folder), int(stop_at)),
    "short": lambda folder, moment: short(Path(folder), moment),
    "end": lambda folder, moment: worker_main(
        partial(short, Path(folder), moment), partial(explain, scratch=Path(folder))
    ),
    "unequal": lambda folder: unequal(Path(folder)),
    "stopped": lambda folder: stopped(Path(folder)),
    "mine": lambda folder: negatives(Path(folder)),
    "gather": gather,
    "sharded": lambda folder: sharded(Path(folder)),
    "hosts": hosts,
}


def main() -> None:
    state = PartialState(cpu=True)
    for line in sys.stdin:
        role, *arguments = json.loads(line)
        told = ROLES[role](*arguments)
        if state.is_main_process:
            sys.stdout.write(f"{json.dumps(told)}\n")
            sys.stdout.flush()
