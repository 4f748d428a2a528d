"""One attempt as a process of its own, to be killed or frozen: fetches or publishes with the real code, as a run does.

    python -m tests.chaos.actor fetch URI FOLDER
    python -m tests.chaos.actor publish STAGING RUN_URI SETTINGS_HASH

It says `ready`, waits for a line on stdin, then says each step it begins. The staging folder is its own: nobody else
reads or writes there. From the environment:

    CHAOS_PIECE    bytes above which an object travels in pieces
    CHAOS_LEASE    seconds until a lease that is not renewed counts as abandoned
    CHAOS_THREADS  how many requests may be under way at once
    CHAOS_AT       `SIGNAL WHAT N`: send itself a signal before its Nth `io` step (a call of the system, a request) or
                   its Nth `write` that its lease must permit
"""

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mnrl_job.config.setting_types import Source
from mnrl_job.data.sources import fetch, locate
from mnrl_job.errors import JobError
from mnrl_job.runs import publish_lease
from mnrl_job.runs.publish import already_published, clear_unfinished, commit_run, record_failure, upload
from mnrl_job.storage import Store, base, open_store, s3, transfer
from mnrl_job.system.threads import parallel

IO = ("open", "os.", "http.client.send")
# What Python and boto3 read for themselves is no step.
ELSEWHERE = (sys.prefix, sys.base_prefix, "/usr", "/etc", "/proc", "/root")
SIGNAL, WHAT, NUMBER = (os.environ.get("CHAOS_AT") or "SIGKILL never 0").split()
counters = {"io": itertools.count(1), "write": itertools.count(1)}


def say(what: str) -> None:
    os.write(1, f"{what}\n".encode())


def step(what: str) -> None:
    """Count a step; where it is the chosen one, send the signal."""
    if next(counters[what]) == int(NUMBER) and what == WHAT:
        say("frozen" if SIGNAL == "SIGSTOP" else "signalled")
        signal.pthread_kill(threading.get_ident(), signal.Signals[SIGNAL])  # so that this very thread goes no further


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(IO) and not str(next(iter(arguments), "")).startswith(ELSEWHERE):
        step("io")


def watched(writing: Callable[[publish_lease.PublishLease], AbstractContextManager[None]]) -> Any:
    """`PublishLease.guard_write`, counted; renewals have a thread of their own and are not."""

    def count_and_write(lease: publish_lease.PublishLease) -> AbstractContextManager[None]:
        if "renew" not in threading.current_thread().name:
            step("write")
        return writing(lease)

    return count_and_write


def tune() -> None:
    """Make small files travel as large ones do, and count the writes."""
    publish_lease.PublishLease.guard_write = watched(publish_lease.PublishLease.guard_write)
    for module in (base, s3, transfer):
        module.PART_SIZE = int(os.environ.get("CHAOS_PIECE") or base.PART_SIZE)
    if threads := os.environ.get("CHAOS_THREADS"):
        parallel.__defaults__ = (int(threads),)


def fetch_source(uri: str, folder: str) -> None:
    located = locate(Source("source", uri), "MNRL_TRAIN_DATA", "path")
    begin()
    say("fetch")
    fetch(located, Path(folder))
    say("fetched")


def publish_run(staging: str, uri: str, settings_hash: str) -> None:
    store = open_store(uri, "MNRL_OUTPUT", "path")
    store.stat("warm")  # the first request takes boto3 a while
    begin()
    try:
        publish(Path(staging), store, settings_hash)
    except JobError as error:
        record_failure(open_store(uri, "MNRL_OUTPUT", "path", 2), error, {})
        raise


def publish(staging: Path, store: Store, settings_hash: str) -> None:
    """What `job.report` does with a finished staging folder."""
    say("claim")
    with publish_lease.acquire_lease(
        store, float(os.environ.get("CHAOS_LEASE") or publish_lease.LEASE_SECONDS)
    ) as lease:
        if already_published(store, settings_hash):
            say("already")
            return
        say("clear")
        clear_unfinished(store, lease)
        say("upload")
        files = upload(staging, store, lease, {})
        (staging / "metrics.json").write_text(json.dumps({"attempt": staging.name}), encoding="utf-8")
        say("metrics")
        files = upload(staging, store, lease, files)
        facts = {"run_id": "r1", "attempt": 1, "settings_sha256": settings_hash, "inputs": {"attempt": staging.name}}
        say("seal")
        commit_run(store, lease, staging, facts, files)
        say("release")
    say("published")


def begin() -> None:
    """Wait for the word, then count."""
    say("ready")
    sys.stdin.readline()
    sys.addaudithook(watch)


def main(role: str, *arguments: str) -> int:
    tune()
    try:
        {"fetch": fetch_source, "publish": publish_run}[role](*arguments)
    except JobError as error:
        say(f"failed: {error}")
        return error.code
    finally:
        say(f"steps {next(counters['io']) - 1} {next(counters['write']) - 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
