"""What a worker does in each of its roles."""

import json
import resource
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.assumed import log_assumptions
from mnrl_job.embedding.load_errors import is_fault_of_device
from mnrl_job.embedding.loading import Loaded, load, load_model, warn_untrained_full_dim
from mnrl_job.embedding.model_facts import ModelFacts
from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.precision import choose_precision
from mnrl_job.embedding.prompts import find_prompt
from mnrl_job.errors import DataError, JobError, first_line
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.run_identity import RunIdentity, run_identity
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.storage import split_revision
from mnrl_job.system import logs
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.phases import Phase
from mnrl_job.system.preemption import record_sigterm
from mnrl_job.system.record_files import write_record
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.fsdp import is_sharded, unsharded
from mnrl_job.training.guide import FOLDER, embed_by_guide
from mnrl_job.training.lora import merged
from mnrl_job.training.results import TokenLengths, Training
from mnrl_job.training.token_lengths import measure_lengths
from mnrl_job.training.train import train
from mnrl_job.training.trial_run import first_steps
from mnrl_job.worker.export import check_exportable, export
from mnrl_job.worker.results import Exports, TrialRun, WorkerResult
from mnrl_job.worker.retrieval import estimate_seconds
from mnrl_job.worker.scoring import evaluate_all, extra_checkpoint_files, score_now, scores_before
from mnrl_job.worker.verify import record_probes, verify

REHEARSED_STEPS = 4


def train_role(task: WorkerTask) -> None:
    """The whole way of a training worker. It stops on request only where a checkpoint is saved, or none is needed."""
    record_sigterm()
    settings = Settings.model_validate(task.settings)
    state = PartialState()
    check_same_inputs(task)
    loaded = load_base(task, settings)
    model = loaded.model
    if task.pairs is None or task.batching is None:
        raise ValueError("a training task needs pairs")
    warn_untrained_full_dim(model, settings.matryoshka_dims)
    check_exportable(model, settings.export)
    before = scores_before(model, task)
    lengths = measure_lengths(model, task.pairs) if state.is_main_process else None
    ask_guide(task, settings)
    logs.log(f"training on {task.pairs.rows} pairs with {describe_devices(state)}")
    identity = asdict(run_identity(settings, task.inputs).for_resume())
    keeping = CheckpointSpec(identity, extra_checkpoint_files(task), task.resume)
    score = partial(score_now, model, task) if settings.eval_interval else None
    training = train(model, settings, task.pairs, task.batching, task.scratch, task.staging, keeping, score)
    if settings.lora_rank or is_sharded():
        make_plain = merged if settings.lora_rank else unsharded
        model = make_plain(model, load_model(task.model, settings).model)
    after = evaluate_all(model, task, "after")
    if state.is_main_process:
        save(model, task.staging)
    if is_local_main_process():
        write_result(task, replace(loaded, model=model), before, after, training, lengths)


def load_base(task: WorkerTask, settings: Settings) -> Loaded:
    """The base model; the first worker tells what had to be assumed of it."""
    loaded = load_model(task.model, settings)
    if PartialState().is_main_process:
        log_assumptions(loaded.assumed)
        if loaded.adapter_of:
            logs.log(f"{settings.base_model} is an adapter of {loaded.adapter_of}, and merged into it")
    return loaded


def ask_guide(task: WorkerTask, settings: Settings) -> None:
    """For the guided loss, have the texts of the batches embedded by the guide, which is let go afterwards."""
    if not task.guide or task.pairs is None or task.batching is None:
        return
    guide = load(task.guide, "MNRL_GUIDE_MODEL", settings.guide_model or "").model
    enter_phase(Phase.EMBED_BY_GUIDE)
    began = time.perf_counter()
    plan = np.load(task.batching.plan, mmap_mode="r")[: settings.max_steps]
    precision = choose_precision(settings.precision, PartialState().device)
    embed_by_guide(guide, task.pairs, plan, precision, task.scratch / FOLDER)
    logs.log(f"embedded the training texts by {settings.guide_model}", seconds=time.perf_counter() - began)


def evaluate_role(task: WorkerTask) -> None:
    """Score a model as it is."""
    settings = Settings.model_validate(task.settings)
    loaded = load_base(task, settings)
    before = evaluate_all(loaded.model, task, "before")
    if PartialState().is_main_process:
        write_result(task, loaded, before)


def trial_run_role(task: WorkerTask) -> None:
    """Train a few steps of the real run and embed a sample of the eval sets, for the clock and the memory."""
    settings = Settings.model_validate(task.settings)
    model = load_base(task, settings).model
    check_exportable(model, settings.export)
    if settings.export and PartialState().is_main_process:
        save(model, task.staging)
    began = time.perf_counter()
    if task.pairs is None or task.batching is None:
        raise ValueError("a rehearsal needs pairs")
    lengths = measure_lengths(model, task.pairs) if PartialState().is_main_process else None
    precision = choose_precision(settings.precision, PartialState().device)
    evaluation = sum(estimate_seconds(model, one, precision) for one in task.eval_sets)
    short = settings.model_copy(
        update={"max_steps": min(REHEARSED_STEPS, settings.max_steps or REHEARSED_STEPS), "report_to": ()}
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    few, their_batches = first_steps(task.pairs, task.batching, REHEARSED_STEPS, task.scratch / "rehearsal")
    ask_guide(replace(task, pairs=few, batching=their_batches), short)
    training = train(model, short, few, their_batches, task.scratch, task.staging)
    if PartialState().is_main_process:
        log = [json.loads(line)["seconds"] for line in (task.staging / "training_log.jsonl").open()]
        # The first step also warms up.
        step = (log[-1] - log[0]) / (len(log) - 1) if len(log) > 1 else log[0]
        rehearsal = TrialRun(
            parameters=parameters,
            trainable_parameters=training.trainable_parameters,
            device=describe_devices(PartialState()),
            torch=torch.__version__,
            peak_memory_bytes=peak_memory(),
            step_seconds=step,
            evaluation_seconds=evaluation,
            seconds=time.perf_counter() - began,
            lengths=lengths,
        )
        write_record(task.scratch / "rehearsal.json", rehearsal)


def verify_role(task: WorkerTask) -> None:
    """Reload what was saved, in a process that never saw the training."""
    verification = verify(task.staging / "model", task.staging / "verification.json")
    write_record(task.scratch / "verified.json", verification)


def recheck_role(task: WorkerTask) -> None:
    """Reload what was published before.

    Raises:
        DataError: it cannot be loaded, or gives other embeddings; in `verify_role` that is a fault of ours.
    """
    try:
        verification = verify(task.staging / "model", task.staging / "verification.json")
    except Exception as error:
        if is_fault_of_device(error):
            raise
        known = isinstance(error, JobError)
        raise DataError(str(error) if known else f"its model cannot be loaded: {first_line(error)}") from error
    write_record(task.scratch / "verified.json", verification)


def export_role(task: WorkerTask) -> None:
    """Write the saved model in other formats, too, in the Python of the exporters."""
    settings = Settings.model_validate(task.settings)
    write_record(task.scratch / "exports.json", Exports(tuple(export(one, task) for one in settings.export)))


def check_same_inputs(task: WorkerTask) -> None:
    """Compare the hashes of the inputs on all ranks; each node downloaded its own.

    Raises:
        DataError: a rank has other inputs than rank 0.
    """
    identities = gather_object([RunIdentity({}, task.inputs)])
    for rank, identity in enumerate(identities):
        if difference := identities[0].find_difference(identity):
            raise DataError(
                f"{difference.name}: rank {rank} reads something else than rank 0 (SHA-256 {difference.actual} and "
                f"{difference.expected}); it was changed while the nodes started: start again"
            )


def save(model: SentenceTransformer, folder: Path) -> None:
    """Write the model folder and the embeddings it must give again."""
    enter_phase(Phase.SAVE)
    record_probes(model, folder / "verification.json")
    # The card is written from the run's record later; the library's own asks the Hub and quotes training texts.
    model.save_pretrained(str(folder / "model"), create_model_card=False, safe_serialization=True)


def write_result(
    task: WorkerTask,
    loaded: Loaded,
    before: tuple[Evaluation, ...],
    after: tuple[Evaluation, ...] = (),
    training: Training | None = None,
    lengths: TokenLengths | None = None,
) -> None:
    """Tell the supervisor what came of it."""
    model = loaded.model
    facts = ModelFacts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding_dimension=int(model.get_embedding_dimension() or 0),
        max_seq_length=max_tokens(model),
        revision=split_revision(task.model)[1] or None,
        query_prompt=find_prompt(model, "query") or "",
        document_prompt=find_prompt(model, "document") or "",
        assumed=loaded.assumed,
        adapter_of=loaded.adapter_of,
    )
    devices = (describe_devices(PartialState()),)
    result = WorkerResult(facts, before, devices, peak_memory(), after, training, lengths)
    write_record(task.scratch / "result.json", result)


def peak_memory() -> int:
    """Bytes this process has used at most: of the GPU, or on a CPU of the machine."""
    if PartialState().device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe_devices(state: PartialState) -> str:
    """`2 x NVIDIA H100` or `1 x CPU (2 threads)`."""
    if state.device.type == "cuda":
        return f"{state.num_processes} x {torch.cuda.get_device_name(state.device)}"
    return f"{state.num_processes} x CPU ({torch.get_num_threads()} threads)"
