"""The role of a worker in a check: a few training steps, to measure time and memory."""

import json
import time
from dataclasses import replace

import torch
from accelerate import PartialState

from mnrl_job.embedding.precision import choose_precision
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.token_lengths import measure_lengths
from mnrl_job.training.train import train
from mnrl_job.training.trial_run import first_steps
from mnrl_job.worker.devices import describe_devices, peak_memory
from mnrl_job.worker.guide import run_guide_model
from mnrl_job.worker.model import load_base_model
from mnrl_job.worker.results import TrialRun
from mnrl_job.worker.retrieval import estimate_seconds
from mnrl_job.worker.tokens import with_usable_tokens

TRIAL_STEPS = 4
SCORED_QUERIES, SCORED_DOCUMENTS, TOP_SCORES = 512, 16_384, 100


def trial_run_role(task: WorkerTask) -> None:
    """Train the first steps of the real run, and embed a sample of each eval set."""
    settings, state = task.settings, PartialState()
    model = load_base_model(task).model
    started = time.perf_counter()
    task = with_usable_tokens(model, task)
    if task.pairs is None or task.batch_plan is None:
        raise ValueError("a trial run needs pairs")
    lengths = measure_lengths(model, task.pairs) if state.is_main_process and not task.batch_plan.tokens else None
    precision = choose_precision(settings.precision, state.device)
    evaluation_seconds = sum(estimate_seconds(model, eval_set, precision) for eval_set in task.eval_sets)
    dimension = int(model.get_embedding_dimension() or 0)
    score_seconds = measure_scoring(dimension, state.device) / state.num_processes
    max_steps = min(TRIAL_STEPS, settings.max_steps or TRIAL_STEPS)
    trial_settings = settings.model_copy(update={"max_steps": max_steps, "report_to": ()})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    data = TrainingData(task.pairs, task.batch_plan)
    if task.batch_plan.tokens is None:
        data = first_steps(data, TRIAL_STEPS, task.scratch / "trial-run")
    run_guide_model(replace(task, settings=trial_settings, pairs=data.pairs, batch_plan=data.batch_plan))
    training = train(model, trial_settings, data, AttemptFolders(task.scratch, task.staging))
    if state.is_main_process:
        seconds = [json.loads(line)["seconds"] for line in (task.staging / "training_log.jsonl").open()]
        # Without the first step, which includes the warm-up.
        step_seconds = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else seconds[0]
        result = TrialRun(
            parameters=parameters,
            trainable_parameters=training.trainable_parameters,
            device=describe_devices(state),
            torch=torch.__version__,
            peak_memory_bytes=peak_memory(),
            step_seconds=step_seconds,
            evaluation_seconds=evaluation_seconds,
            seconds=time.perf_counter() - started,
            lengths=lengths,
            embedding_dimension=dimension,
            score_seconds=score_seconds,
        )
        write_record(task.scratch / "trial_run.json", result)


def measure_scoring(dimension: int, device: torch.device) -> float:
    """The seconds to compare a query with a document, in tiles as they are mined."""
    queries, documents = (torch.rand(count, dimension, device=device) for count in (SCORED_QUERIES, SCORED_DOCUMENTS))
    seconds = []
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        (queries @ documents.T).topk(TOP_SCORES).values.sum().item()
        seconds.append(time.perf_counter() - started)
    return min(seconds) / (SCORED_QUERIES * SCORED_DOCUMENTS)
