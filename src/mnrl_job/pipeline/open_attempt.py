"""Opens an attempt at a run, and records its failure."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mnrl_job.config.settings import Settings
from mnrl_job.errors import Diverged, HangTimeout, JobError, Preempted, SettingsError, as_job_error
from mnrl_job.launch.nodes import find_nodes
from mnrl_job.pipeline.unfinished import INPUTS, find_unfinished
from mnrl_job.runs import attempt_history
from mnrl_job.runs.attempt import Attempt, start_attempt
from mnrl_job.runs.publish import record_failure
from mnrl_job.storage import Store
from mnrl_job.storage.probe import PREFIX as PROBE
from mnrl_job.system.machine import translate_disk_full
from mnrl_job.system.preemption import preempted_takes_precedence, raise_on_signal
from mnrl_job.system.secrets import redact

# What a run with a generated id consists of before its first step.
RECORDS = (f"{attempt_history.FOLDER}/", INPUTS, PROBE)


def refuse_several_nodes(settings: Settings, command: str) -> None:
    """Refuse to work on several nodes.

    Raises:
        SettingsError: there are several.
    """
    nodes = find_nodes(settings.num_nodes, settings.node_rank, settings.master_addr, command, os.environ)
    if not nodes.is_single:
        raise SettingsError(
            f"MNRL_NUM_NODES: there are {nodes.max_nodes} nodes, but {command} works on one; start it on one"
        )


@contextmanager
def open_attempt(settings: Settings, resumes: bool = False, name: str | None = None) -> Iterator[Attempt]:
    """Start an attempt. If the user names no run: at `name`, or if it `resumes`, at an unfinished one.

    Node 0 records failures.
    """
    with raise_on_signal(), start_attempt(settings, find_unfinished if resumes else lambda _: name) as attempt:
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
        f"{preempted}; this attempt ran for longer than MNRL_HANG_TIMEOUT without leaving anything to resume from, so "
        "the next one starts where it did: allow more time between preemptions, or use faster machines"
    )


def save_failure(attempt: Attempt, failure: JobError) -> None:
    """Record a failure in the attempt history and in `failure.json`.

    An attempt without a named run that fails before its first step leaves neither a folder nor another `failure.json`.
    """
    store, step = attempt.store(attempts=2), attempt.status.step
    if attempt.history.has_started:
        attempt.history.update(store, outcome=failure.kind, message=redact(str(failure)), last_step=step)
    is_early = attempt.origin != "given" and not step and not isinstance(failure, Diverged)
    if is_early and (discard_records(store) or attempt.origin == "found"):
        return
    record_failure(store, failure, {"phase": attempt.status.phase, "step": step})


def discard_records(store: Store) -> bool:
    """Remove a run that consists of nothing but records. Returns False where it holds more, so that it is kept."""
    with suppress(JobError):
        keys = [entry.key for entry in store.list_objects()]
        if is_empty := all(key.startswith(RECORDS) for key in keys):
            for key in keys:
                store.delete(key)
        return is_empty
    return False
