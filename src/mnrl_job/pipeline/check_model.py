"""The trial run of a check: a few training steps on the real devices, for expected time and memory."""

import time
from collections.abc import Iterable

from mnrl_job.config.setting_types import Interval
from mnrl_job.data.evalset import EvalSet
from mnrl_job.evaluation.weight_selection import ALPHAS
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.pipeline.findings import Findings
from mnrl_job.pipeline.predictions import Workload, predict_mining
from mnrl_job.system.devices import Devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.quantities import duration, file_size
from mnrl_job.training.hard_negatives import INDEXED_SHARE, MAX_EXACT
from mnrl_job.training.results import TokenLengths
from mnrl_job.worker.results import TrialRun

# Weights and the two moments of Adam, in fp32.
CHECKPOINT_BYTES_PER_PARAMETER = 12


def check_model(
    task: WorkerTask,
    work: Workload,
    devices: Devices,
    timeouts: WorkerTimeouts,
    speed: float | None,
    findings: Findings,
) -> TokenLengths | None:
    """Load the model and train a few steps; estimate the time of a run.

    Returns the token lengths of the training texts, None where the model fails or does not count tokens.
    """
    with findings.checking("model"):
        started = time.perf_counter()
        trial_run = run_workers("trial_run", task, devices, timeouts, "trial_run.json", TrialRun)
        loading_seconds = time.perf_counter() - started - trial_run.seconds
        findings.passed(
            "model",
            f"loads and trains on {trial_run.device} with torch {trial_run.torch}: "
            f"{trial_run.parameters / 1e6:.1f} million parameters, "
            f"peak memory {file_size(trial_run.peak_memory_bytes)}",
        )
        mining = mining_seconds(task, work, trial_run) if task.settings.num_hard_negatives else 0.0
        if mining:
            findings.add(predict_mining(work, trial_run.embedding_dimension, mining, task.scratch))
        findings.passed("expected time", expected_time(task, work, trial_run, 2 * loading_seconds, mining))
        if speed:
            size = trial_run.trainable_parameters * CHECKPOINT_BYTES_PER_PARAMETER
            findings.add(check_grace_period(size, speed, timeouts.grace_seconds))
        return trial_run.lengths
    return None


def expected_time(
    task: WorkerTask, work: Workload, trial_run: TrialRun, startup_seconds: float, mining_seconds: float
) -> str:
    """The expected duration of the run, with its largest parts."""
    settings, steps = task.settings, work.steps
    mining = mining_seconds * (settings.epochs if settings.mines_every_epoch else 1)
    selecting = text_seconds(task, trial_run) * selection_texts(
        task, evaluations_during(steps, trial_run.step_seconds, settings.eval_interval)
    )
    total = startup_seconds + 2 * trial_run.evaluation_seconds + steps * trial_run.step_seconds + mining + selecting
    parts = (
        f"{steps} steps of {trial_run.step_seconds:.2f} s, 2 evaluations of "
        f"{trial_run.evaluation_seconds:.1f} s, start-up {startup_seconds:.0f} s"
    )
    more = {"preparing": work.prepare_seconds, "mining": mining, "selecting weights": selecting}
    return f"about {duration(total + work.prepare_seconds)}: {parts}" + "".join(
        f", {what} {part:.0f} s" for what, part in more.items() if part
    )


def mining_seconds(task: WorkerTask, work: Workload, trial_run: TrialRun) -> float:
    """A round of mining embeds every query and document, and compares each with each, or with those of near lists."""
    share = 1.0 if work.pairs <= MAX_EXACT else INDEXED_SHARE
    return 2 * work.pairs * text_seconds(task, trial_run) + share * work.pairs**2 * trial_run.score_seconds


def text_seconds(task: WorkerTask, trial_run: TrialRun) -> float:
    """To embed a text."""
    evaluated = texts_of(task.eval_sets)
    return trial_run.evaluation_seconds / evaluated if evaluated else 0.0


def evaluations_during(steps: int, step_seconds: float, interval: Interval | None) -> int:
    """The number of evaluations during training, without early stopping."""
    if interval is None:
        return 0
    interval_steps = interval.steps or max(1, int((interval.seconds or 0) / step_seconds))
    return -(-steps // interval_steps)


def texts_of(eval_sets: Iterable[EvalSet]) -> int:
    return sum(eval_set.queries + eval_set.documents for eval_set in eval_sets)


def selection_texts(task: WorkerTask, evaluations: int) -> int:
    """How many texts are embedded to select weights: during training, and for weight interpolation after it."""
    if task.selection is None:
        return 0
    sets = filter(None, (task.selection.split, task.selection.guard))
    mixtures = len(ALPHAS) if task.selects_alpha else 0
    return evaluations * texts_of([task.selection.split]) + mixtures * texts_of(sets)


def check_grace_period(size: int, speed: float, grace_seconds: float) -> Finding:
    """How many checkpoints of `size` bytes can be uploaded between SIGTERM and SIGKILL."""
    seconds = size / speed
    fit = int(grace_seconds / seconds)
    written = f"writing a checkpoint ({file_size(size)}) to the output takes {seconds:.1f} s"
    detail = f"{written}; {fit} fit into {grace_seconds:g} s"
    if fit < 1:
        enough = round(2 * seconds + grace_seconds)
        remedy = f"set terminationGracePeriodSeconds (docker stop -t) and MNRL_GRACE_PERIOD to at least {enough} s"
        return Finding("grace period", "warning", detail, remedy)
    return Finding("grace period", "passed", detail)
