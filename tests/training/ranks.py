"""One of several ranks, see `rank_processes.py`; it does what each line of its input asks for.

`loss` gives the value of our loss and of the library's, `objective` that of ours for an objective, `encode` what texts
are embedded to, `train` trains from the last checkpoint in a folder, if there is one, up to a step, and gives the
digest of the rows; so does `short`, where the second rank has memory for two texts at a time, or runs out of it once in
the loss or in the backward pass, where it ends as a worker does; `mine` gives the hard negatives, `evaluate` the
metrics of an eval set, `gather` rows and their gradients, `sharded` writes gradients of a model held in shares, `hosts`
gives what processors tell one another.
Only the first rank answers.
"""

import json
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from pydantic_core import to_jsonable_python
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import all_gather_with_grad as library_gather

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import RankRange
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import no_values
from mnrl_job.data.tables import read_groups
from mnrl_job.embedding.encode import encode
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.launch.error_files import worker_main
from mnrl_job.system.record_files import read_record
from mnrl_job.training import distributed
from mnrl_job.training.distributed import all_gather_ints, all_gather_with_grad, any_rank, max_over_ranks
from mnrl_job.training.hard_negatives import document_index
from mnrl_job.training.hard_negatives.mining import MiningConfig, find_candidates, mine
from mnrl_job.training.losses.contrastive_loss import LossConfig, Objective
from mnrl_job.training.losses.mnrl import GlobalBatchLoss
from mnrl_job.worker.main import explain
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate
from tests.training.batches import batch_of, guide_of
from tests.training.rank_training import fail_on_second_rank, sharded, stopped, train, unequal


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
        "ours": GlobalBatchLoss(model, LossConfig(20, objective), state.process_index),
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
            if (path := folder / "known_positives.json").exists():
                known = torch.tensor(json.loads(path.read_text()))
                batch["known_positives"] = known[torch.isin(known[:, 0], label[:, 1])]
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


def embeddings(folder: Path) -> dict[str, object]:
    """All embeddings, and how many texts this rank has embedded."""
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    texts = pa.chunked_array([json.loads((folder / "texts.json").read_text())])
    found = encode(model, texts, "document", "fp32", folder / "of-two.arrow")
    return {"embeddings": found.tolist(), "texts": sum(seen)}


def negatives(folder: Path, max_exact: int) -> dict[str, object]:
    """What is mined, with an index above so many documents, and how many texts this rank has embedded."""
    pairs, batch_plan = read_record(folder / "pairs.json", Pairs), read_record(folder / "batching.json", BatchPlan)
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    candidates = find_candidates(
        read_groups(batch_plan.labels), no_values(pairs.rows), np.zeros(pairs.rows, dtype=bool), np.arange(pairs.rows)
    )
    config = MiningConfig(2, RankRange(1, 100), 0.0)
    with mock.patch.multiple(document_index, MAX_EXACT=max_exact, PROBES_PER_BRANCH=100):
        found = mine(model, pairs, candidates, config, "fp32", folder / "mining")
    return {
        "rows": found.rows.tolist(),
        "similarity": found.similarity,
        "positive_similarity": found.positive_similarity,
        "embedded": sum(seen),
    }


def evaluation(folder: Path) -> dict[str, object]:
    """The metrics of an eval set, and those of each query as written by the first rank."""
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    eval_set = read_record(folder / "eval_set.json", EvalSet)
    options = EvaluationOptions("fp32", [1, 10], (6,))
    return to_jsonable_python(evaluate(model, eval_set, options, folder / "results.jsonl"))


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


def hosts() -> dict[str, object]:
    """What processors say where there are GPUs, as this one plays; and how long they wait for one another."""
    rank, backend = PartialState().process_index, torch.distributed.get_backend
    torch.distributed.get_backend = lambda: "nccl"
    try:
        distributed.init_host_group(timedelta(seconds=77))
        group = distributed._host_group
        found = {
            "most": max_over_ranks(rank),
            "numbers": all_gather_ints([10 + rank, rank]),
            "all": any_rank(rank == 1),
        }
    finally:
        torch.distributed.get_backend, distributed._host_group = backend, None
    seconds = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    return found | {"seconds": seconds, "world": group is torch.distributed.group.WORLD}


ROLES = {
    "loss": lambda folder, *whose: loss(Path(folder), whose or ("ours", "theirs")),
    "objective": lambda folder, objective: loss(Path(folder), ("ours",), objective)["ours"],
    "encode": lambda folder: embeddings(Path(folder)),
    "train": lambda folder, stop_at: train(Path(folder), int(stop_at)),
    "short": lambda folder, moment: fail_on_second_rank(Path(folder), moment),
    "end": lambda folder, moment: worker_main(
        partial(fail_on_second_rank, Path(folder), moment), partial(explain, scratch=Path(folder))
    ),
    "unequal": lambda folder: unequal(Path(folder)),
    "stopped": lambda folder: stopped(Path(folder)),
    "evaluate": lambda folder: evaluation(Path(folder)),
    "mine": lambda folder, max_exact: negatives(Path(folder), int(max_exact)),
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
