"""The role of a training worker: evaluate the base model, train, evaluate again, save."""

from dataclasses import asdict, replace
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.loading import load_model, warn_untrained_full_dim
from mnrl_job.errors import DataError
from mnrl_job.launch.run_identity import RunIdentity, run_identity
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system import logs
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.preemption import record_sigterm
from mnrl_job.system.record_files import write_record
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.fsdp import is_sharded, unsharded
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.lora import ADAPTER, adapter_outputs, merged, scale_adapter, write_adapter
from mnrl_job.training.token_lengths import measure_lengths
from mnrl_job.training.train import train
from mnrl_job.training.weight_interpolation import Weights, host_copy, own_weights
from mnrl_job.worker.devices import describe_devices, peak_memory
from mnrl_job.worker.guide import run_guide_model
from mnrl_job.worker.model import describe_model, load_base_model, model_options, save_model
from mnrl_job.worker.results import WorkerResult
from mnrl_job.worker.scoring import evaluate_all, extra_checkpoint_files, scores_before, selection_score
from mnrl_job.worker.tokens import with_usable_tokens
from mnrl_job.worker.weight_selection import Points, fixed_alpha, select_weights


def train_role(task: WorkerTask) -> None:
    """Train. A preemption takes effect where a checkpoint is saved, or none is needed."""
    record_sigterm()
    settings = task.settings
    state = PartialState()
    check_same_inputs(task.inputs)
    loaded = load_base_model(task)
    model = loaded.model
    warn_untrained_full_dim(model, settings.matryoshka_dims)
    before = scores_before(model, task)
    task = with_usable_tokens(model, task)
    if task.pairs is None or task.batch_plan is None:
        raise ValueError("a training task needs pairs")
    lengths = measure_lengths(model, task.pairs) if state.is_main_process and not task.batch_plan.tokens else None
    run_guide_model(task)
    logs.log(f"training on {task.pairs.rows} pairs with {describe_devices(state)}")
    identity = asdict(run_identity(settings, task.inputs).for_resume())
    checkpoint_spec = CheckpointSpec(identity, extra_checkpoint_files(task), task.resume)
    score = partial(selection_score, model, task) if settings.eval_interval else None
    data, folders = TrainingData(task.pairs, task.batch_plan), AttemptFolders(task.scratch, task.staging)
    training = train(model, settings, data, folders, checkpoint_spec, score)
    model, alpha, points = final_model(task, model)
    training = replace(training, weight_interpolation=alpha, interpolation_points=points)
    after = evaluate_all(model, task, "after")
    if state.is_main_process:
        save_model(model, task.staging)
    if is_local_main_process():
        facts = describe_model(replace(loaded, model=model), task.model)
        devices = (describe_devices(state),)
        result = WorkerResult(facts, before, devices, peak_memory(), after, training, lengths)
        write_record(task.scratch / "result.json", result)


def final_model(task: WorkerTask, trained: SentenceTransformer) -> tuple[SentenceTransformer, float, Points]:
    """The model to publish, whole on every rank: adapters merged, shards gathered, weights interpolated. Collective.

    Also returns the fraction of the trained weights, and the scores it was selected by, if any. Saves the adapter.
    """
    settings, alpha = task.settings, fixed_alpha(task)
    points: Points = ()
    load_base = partial(load_model, task.model, model_options(settings), settings.base_model)
    if settings.lora_rank and not is_sharded():  # the adapter alone is interpolated, with nothing
        outputs = adapter_outputs(trained)
        nothing = {name: torch.zeros_like(weight) for name, weight in outputs.items()}
        alpha, points = select_weights(task, trained, outputs, nothing, alpha)
        write_adapter(trained, settings.base_model, task.staging / ADAPTER)
        return merged(trained, load_base().model), alpha, points
    model = trained
    base: Weights = {}
    if settings.lora_rank or is_sharded() or alpha != 1:
        fresh = load_base().model
        base = host_copy(own_weights(fresh)) if alpha != 1 else {}
        if settings.lora_rank:
            model = merged(trained, fresh)
        elif is_sharded():
            model = unsharded(trained, fresh)
        del fresh
    if alpha != 1:
        alpha, points = select_weights(task, model, own_weights(model), base, alpha)
    if settings.lora_rank:
        scale_adapter(trained, alpha)
        write_adapter(trained, settings.base_model, task.staging / ADAPTER)
    return model, alpha, points


def check_same_inputs(inputs: dict[str, str]) -> None:
    """Compare the hashes of the inputs on all ranks; each node downloaded its own.

    Raises:
        DataError: a rank has other inputs than rank 0.
    """
    identities = gather_object([RunIdentity({}, inputs)])
    for rank, identity in enumerate(identities):
        if difference := identities[0].find_difference(identity):
            raise DataError(
                f"{difference.name}: rank {rank} reads something else than rank 0 (SHA-256 {difference.actual} and "
                f"{difference.expected}); it was changed while the nodes started: start again"
            )
