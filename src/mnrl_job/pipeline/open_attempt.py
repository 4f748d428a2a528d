"""An attempt at a run, which ends in order whatever happens in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from mnrl_job.config.settings import Settings
from mnrl_job.errors import HangTimeout, JobError, Preempted, as_job_error
from mnrl_job.runs.attempt import Attempt, attempt
from mnrl_job.runs.publish import record_failure
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import preempted_takes_precedence, raise_on_signal
from mnrl_job.system.secrets import redact


@contextmanager
def opened(settings: Settings) -> Iterator[Attempt]:
    """The place of this attempt; whatever goes wrong inside is written to its `failure.json`, by the first node."""
    with raise_on_signal(), attempt(settings) as place:
        try:
            with translate_disk_full(place.scratch), preempted_takes_precedence():
                yield place
        except Exception as error:
            failure = as_job_error(error)
            if isinstance(failure, Preempted) and place.nodes.is_first and place.status.got_nowhere:
                failure = error = no_progress(failure)
            if place.nodes.is_first:
                note_failure(place, failure)
            raise failure from None if failure is error else error


def no_progress(stopped: Preempted) -> HangTimeout:
    """What a request to stop means to an attempt that got nowhere: free of charge it could be repeated for ever."""
    return HangTimeout(
        f"{stopped}; this attempt took long and kept no checkpoint, so the next begins where it began: give it more "
        "time between two stops, or faster machines to prepare on"
    )


def note_failure(place: Attempt, failure: JobError) -> None:
    """Tell of it beside the run, and among its attempts."""
    store, step = place.store(attempts=2), place.status.step
    if place.diary.begun:
        place.diary.write(store, outcome=failure.kind, message=redact(str(failure)), last_step=step)
    record_failure(store, failure, {"phase": place.status.phase, "step": step})
