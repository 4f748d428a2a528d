"""The part of a check that tries the model: a few steps on the real devices, for the clock and the memory."""

import time

from mnrl_job.config.setting_types import Interval
from mnrl_job.config.settings import Settings
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import ask_workers
from mnrl_job.pipeline.findings import Findings
from mnrl_job.system.devices import Devices
from mnrl_job.system.finding import Finding
from mnrl_job.training.results import TokenLengths
from mnrl_job.worker.results import TrialRun

# Weights and the two moments of Adam, in fp32.
CHECKPOINT_BYTES_PER_PARAMETER = 12


def check_model(
    task: WorkerTask, devices: Devices, care: WorkerTimeouts, speed: float | None, findings: Findings
) -> TokenLengths | None:
    """Load the model and train a few steps for the clock; tell how long all of it will take.

    Returns:
        How long the training texts are, None where the model fails or does not count tokens.
    """
    steps = task.batching.steps if task.batching else 0
    with findings.checking("model"):
        began = time.perf_counter()
        seen = ask_workers("rehearse", task, devices, care, "rehearsal.json", TrialRun)
        loading = time.perf_counter() - began - seen.seconds
        findings.passed(
            "model",
            f"loads and trains on {seen.device} with torch {seen.torch}: "
            f"{seen.parameters / 1e6:.1f} million parameters, peak memory {seen.peak_memory_bytes / 1e9:.1f} GB",
        )
        findings.passed("expected time", expected_time(task, steps, seen, 2 * loading))
        if speed:
            findings.add(grace(seen.trainable_parameters * CHECKPOINT_BYTES_PER_PARAMETER, speed, care.grace_seconds))
        return seen.lengths
    return None


def expected_time(task: WorkerTask, steps: int, seen: TrialRun, starting: float) -> str:
    """How long the run will take, and what of it, in words."""
    settings = Settings.model_validate(task.settings)
    evaluations = 2 + scores_while(steps, seen.step_seconds, settings.eval_interval)
    mining = minings(settings) * embedding_seconds(task, seen.evaluation_seconds)
    total = starting + evaluations * seen.evaluation_seconds + steps * seen.step_seconds + mining
    told = (
        f"about {_duration(total)}: {steps} steps of {seen.step_seconds:.2f} s, {evaluations} evaluations of "
        f"{seen.evaluation_seconds:.1f} s, start-up {starting:.0f} s"
    )
    return told + (f", mining {mining:.0f} s" if mining else "")


def scores_while(steps: int, step_seconds: float, every: Interval | None) -> int:
    """How often the model is scored while it trains, if patience does not end it."""
    if every is None:
        return 0
    between = every.steps or max(1, int((every.seconds or 0) / step_seconds))
    return -(-steps // between)


def minings(settings: Settings) -> int:
    """How often hard negatives are mined."""
    return settings.epochs if settings.mines_every_epoch else int(settings.num_hard_negatives > 0)


def embedding_seconds(task: WorkerTask, evaluation_seconds: float) -> float:
    """How long embedding all training pairs would take, as fast as the texts of the eval sets."""
    texts = sum(one.queries + one.documents for one in task.eval_sets)
    return 2 * task.pairs.rows * evaluation_seconds / texts if task.pairs and texts else 0.0


def grace(size: int, speed: float, period: float) -> Finding:
    """How many checkpoints of `size` bytes can be uploaded between SIGTERM and SIGKILL."""
    seconds = size / speed
    fit = int(period / seconds)
    told = f"uploading a checkpoint ({size / 1e6:.0f} MB) takes {seconds:.1f} s; {fit} fit into {period:g} s"
    if fit < 1:
        enough = round(2 * seconds + period)
        remedy = f"set terminationGracePeriodSeconds (docker stop -t) and MNRL_GRACE_PERIOD to at least {enough} s"
        return Finding("grace period", "warning", told, remedy)
    return Finding("grace period", "passed", told)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
