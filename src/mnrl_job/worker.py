"""The process on a device: evaluate before, train, evaluate after, save. Ranks meet only here.

Started by the supervisor as `python -m mnrl_job.worker ROLE TASK.json`, once per device.
"""

import math
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from huggingface_hub.utils.tqdm import enable_progress_bars
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from mnrl_job.errors import DataError, DeviceError, JobError, MemoryLimit, MissingError, SettingsError
from mnrl_job.evaluation.retrieval import evaluate
from mnrl_job.evaluation.verify import record_probes, verify
from mnrl_job.records import Evaluation, ModelFacts, Training, WorkerResult, WorkerTask, read_record, write_record
from mnrl_job.runtime import logs
from mnrl_job.runtime.launch import worker_main
from mnrl_job.settings import Settings
from mnrl_job.training.trainer import train


def train_role(task: WorkerTask) -> None:
    """The whole way of a training worker."""
    settings = Settings.model_validate(task.settings)
    state = PartialState()
    model = load_model(task.model, settings)
    before = evaluate_all(model, task, "before")
    if task.pairs is None or task.text_ids is None:
        raise ValueError("a training task needs pairs")
    logs.log(f"training on {task.pairs.rows} pairs with {describe_devices(state)}")
    training = train(model, settings, task.pairs, task.text_ids, task.scratch, task.staging)
    after = evaluate_all(model, task, "after")
    if state.is_main_process:
        save(model, task.staging)
        write_result(task, model, before, after, training)


def evaluate_role(task: WorkerTask) -> None:
    """Score a model as it is."""
    settings = Settings.model_validate(task.settings)
    model = load_model(task.model, settings)
    before = evaluate_all(model, task, "before")
    if PartialState().is_main_process:
        write_result(task, model, before)


def verify_role(task: WorkerTask) -> None:
    """Reload what was saved, in a process that never saw the training."""
    verification = verify(task.staging / "model", task.staging / "verification.json")
    write_record(task.scratch / "verified.json", verification)


def load_model(name: str, settings: Settings) -> SentenceTransformer:
    """Load a folder or a Hub id with an optional `@revision` onto this worker's device.

    Raises:
        MissingError: there is no such model on the Hub, or it cannot be reached.
        DataError: the folder's model is damaged.
        SettingsError: texts are to be cut at more tokens than the model can take.
    """
    is_folder = Path(name).is_dir()
    path, _, revision = (name, "", "") if is_folder else name.partition("@")
    try:
        model = SentenceTransformer(path, revision=revision or None, device=str(PartialState().device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = f"MNRL_BASE_MODEL: {name} cannot be loaded: {str(error).strip().splitlines()[0]}"
        if is_folder:
            raise DataError(f"{reason}; the folder is damaged or holds no Sentence Transformers model") from error
        raise MissingError(f"{reason}; give a model folder, or a Hub id that can be reached from here") from error
    if settings.max_seq_length:
        longest = getattr(getattr(model.transformers_model, "config", None), "max_position_embeddings", None)
        if longest and settings.max_seq_length > longest > 0:
            raise SettingsError(f"MNRL_MAX_SEQ_LENGTH={settings.max_seq_length}: the model takes {longest} at most")
        model.max_seq_length = settings.max_seq_length
    return model


def evaluate_all(model: SentenceTransformer, task: WorkerTask, when: str) -> tuple[Evaluation, ...]:
    """Score the model on every eval set."""
    primary = task.settings["primary_metric"].rpartition(".")[2]
    evaluations = []
    for eval_set in task.eval_sets:
        results = task.scratch / f"{when}-{eval_set.name}.jsonl"
        done = evaluate(model, eval_set, results)
        moment = f"{when} training, " if task.pairs else ""
        logs.log(f"{moment}{eval_set.name}: {primary} {done.metrics[primary]:.4f}", seconds=done.seconds)
        evaluations.append(done)
    return tuple(evaluations)


def save(model: SentenceTransformer, folder: Path) -> None:
    """Write the model folder and the embeddings it must give again."""
    record_probes(model, folder / "verification.json")
    # The card is written from the run's record later; the library's own asks the Hub and quotes training texts.
    model.save_pretrained(str(folder / "model"), create_model_card=False, safe_serialization=True)


def write_result(
    task: WorkerTask,
    model: SentenceTransformer,
    before: tuple[Evaluation, ...],
    after: tuple[Evaluation, ...] = (),
    training: Training | None = None,
) -> None:
    """Tell the supervisor what came of it."""
    limit = model.max_seq_length  # a model without positions says infinity
    facts = ModelFacts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding_dimension=int(model.get_embedding_dimension() or 0),
        max_seq_length=int(limit) if limit and math.isfinite(limit) else None,
        revision=task.model.partition("@")[2] or None,
    )
    on_gpu = PartialState().device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    devices = (describe_devices(PartialState()),)
    write_record(task.scratch / "result.json", WorkerResult(facts, before, devices, peak, after, training))


def describe_devices(state: PartialState) -> str:
    """`2 x NVIDIA H100` or `1 x CPU (2 threads)`."""
    if state.device.type == "cuda":
        return f"{state.num_processes} x {torch.cuda.get_device_name(state.device)}"
    return f"{state.num_processes} x CPU ({torch.get_num_threads()} threads)"


def explain(error: Exception) -> JobError | None:
    """Which of our errors a library's exception is, if any."""
    if isinstance(error, torch.OutOfMemoryError):
        return MemoryLimit(
            f"out of device memory: {str(error).splitlines()[0]}; lower MNRL_BATCH_SIZE or MNRL_MAX_SEQ_LENGTH"
        )
    return None


def run(role: Callable[[WorkerTask], None], task: WorkerTask) -> None:
    """Set the process up and do its part."""
    on_cpu = bool(os.environ.get("ACCELERATE_USE_CPU"))
    if not on_cpu and not torch.cuda.is_available():
        raise DeviceError(
            f"the driver shows a GPU, but torch {torch.__version__} cannot use it; install a torch build for this "
            "driver, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    state = PartialState(cpu=on_cpu)
    logs.set_up(task.settings["log_format"], quiet=not state.is_main_process)
    disable_progress_bar()
    if logs.shows_progress():
        enable_progress_bars()  # the Hub's: a download may take minutes, loading from disk does not
    role(task)
    # Only after success: on failure the cause must be written down first, and tearing down may wait for the others.
    state.destroy_process_group()


ROLES = {"train": train_role, "evaluate": evaluate_role, "verify": verify_role}


def main() -> int:
    """Entry of the process."""
    role, path = sys.argv[1:]
    return worker_main(lambda: run(ROLES[role], read_record(Path(path), WorkerTask)), explain)


if __name__ == "__main__":
    sys.exit(main())
