"""Opens an attempt at a run, and records its failure."""

from collections.abc import Iterator
from contextlib import contextmanager

from mnrl_job.config.settings import Settings
from mnrl_job.errors import HangTimeout, JobError, Preempted, as_job_error
from mnrl_job.runs.attempt import Attempt, start_attempt
from mnrl_job.runs.publish import record_failure
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import preempted_takes_precedence, raise_on_signal
from mnrl_job.system.secrets import redact


@contextmanager
def open_attempt(settings: Settings) -> Iterator[Attempt]:
    """Start an attempt. On an exception, node 0 writes `failure.json`."""
    with raise_on_signal(), start_attempt(settings) as attempt:
        try:
            with translate_disk_full(attempt.scratch), preempted_takes_precedence():
                yield attempt
        except Exception as error:
            failure = as_job_error(error)
            if isinstance(failure, Preempted) and attempt.nodes.is_first and attempt.status.made_no_progress:
                failure = error = no_progress(failure)
            if attempt.nodes.is_first:
                save_failure(attempt, failure)
            raise failure from None if failure is error else error


def no_progress(preempted: Preempted) -> HangTimeout:
    """The failure of a preempted attempt that made no progress: as `Preempted` it would be retried without limit."""
    return HangTimeout(
        f"{preempted}; this attempt ran for longer than MNRL_HANG_TIMEOUT without uploading a checkpoint, so the next "
        "one starts from the same step: allow more time between preemptions, or prepare on faster machines"
    )


def save_failure(attempt: Attempt, failure: JobError) -> None:
    """Record a failure in the attempt history and in `failure.json`."""
    store, step = attempt.store(attempts=2), attempt.status.step
    if attempt.history.has_started:
        attempt.history.update(store, outcome=failure.kind, message=redact(str(failure)), last_step=step)
    record_failure(store, failure, {"phase": attempt.status.phase, "step": step})
