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
from mnrl_job.system.devices import Devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.quantities import duration, file_size
from mnrl_job.training.results import TokenLengths
from mnrl_job.worker.results import TrialRun

# Weights and the two moments of Adam, in fp32.
CHECKPOINT_BYTES_PER_PARAMETER = 12


def check_model(
    task: WorkerTask, devices: Devices, timeouts: WorkerTimeouts, speed: float | None, findings: Findings
) -> TokenLengths | None:
    """Load the model and train a few steps; estimate the time of a run.

    Returns the token lengths of the training texts, None where the model fails or does not count tokens.
    """
    steps = task.batch_plan.steps if task.batch_plan else 0
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
        findings.passed("expected time", expected_time(task, steps, trial_run, 2 * loading_seconds))
        if speed:
            size = trial_run.trainable_parameters * CHECKPOINT_BYTES_PER_PARAMETER
            findings.add(check_grace_period(size, speed, timeouts.grace_seconds))
        return trial_run.lengths
    return None


def expected_time(task: WorkerTask, steps: int, trial_run: TrialRun, startup_seconds: float) -> str:
    """The expected duration of the run, with its largest parts."""
    settings = task.settings
    mining_rounds = settings.epochs if settings.mines_every_epoch else int(settings.num_hard_negatives > 0)
    evaluated = texts_of(task.eval_sets)
    per_text = trial_run.evaluation_seconds / evaluated if evaluated else 0.0
    mining = mining_rounds * per_text * 2 * task.pairs.rows if task.pairs else 0.0
    selecting = per_text * selection_texts(
        task, evaluations_during(steps, trial_run.step_seconds, settings.eval_interval)
    )
    total = startup_seconds + 2 * trial_run.evaluation_seconds + steps * trial_run.step_seconds + mining + selecting
    parts = (
        f"{steps} steps of {trial_run.step_seconds:.2f} s, 2 evaluations of "
        f"{trial_run.evaluation_seconds:.1f} s, start-up {startup_seconds:.0f} s"
    )
    more = {"mining": mining, "selecting weights": selecting}
    return f"about {duration(total)}: {parts}" + "".join(
        f", {what} {part:.0f} s" for what, part in more.items() if part
    )


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
