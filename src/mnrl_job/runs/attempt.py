"""An attempt at a run: the run's id and URI, the attempt's scratch folder, status and history."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mnrl_job.config.data_settings import NEW
from mnrl_job.config.settings import Settings, env_name
from mnrl_job.errors import DataError
from mnrl_job.health import FILE
from mnrl_job.launch.nodes import SINGLE_NODE, Nodes, find_nodes
from mnrl_job.launch.run_identity import run_identity
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.runs.status import Status
from mnrl_job.storage import Store, open_store
from mnrl_job.storage.uri import expand_user, join
from mnrl_job.system.files import scratch_folder, writable_folder
from mnrl_job.system.heartbeat import heartbeats_to
from mnrl_job.system.home import provide_home


class CannotResume(DataError):
    """The unfinished run that was found does not belong to these settings and inputs after all."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run, which is published to `run_uri`. `staging` holds exactly the files to publish.

    `origin` is that of the run id: named by the user, found by settings and inputs, or new; `rerun` says how to resume
    the run. `inputs` holds downloaded inputs; below `MNRL_WORK_DIR` the next attempt reuses them.
    """

    run_id: str
    started_at: datetime
    settings_hash: str
    run_uri: str
    scratch: Path
    staging: Path
    inputs: Path
    addressing_style: str
    status: Status
    history: AttemptHistory
    timeouts: WorkerTimeouts
    nodes: Nodes = SINGLE_NODE
    origin: Literal["given", "found", "new"] = "given"
    rerun: str = "start the job again"

    def store(self, attempts: int | None = None) -> Store:
        """The run's store, opened anew: credentials may have been rotated."""
        return open_store(self.run_uri, "MNRL_OUTPUT", self.addressing_style, attempts)


@contextmanager
def start_attempt(settings: Settings, find_run: Callable[[Settings], str | None] = lambda _: None) -> Iterator[Attempt]:
    """Name the run and create the scratch folder, which is removed at the end. Nothing is written to the run's store.

    `find_run` finds the id if the user names none; without it the run is new.

    Raises:
        JobError: the scratch folder cannot be written, or the nodes cannot be determined.
    """
    given = "" if settings.run_id == NEW else settings.run_id
    nodes = find_nodes(settings.num_nodes, settings.node_rank, settings.master_addr, given, os.environ)
    found = None if settings.run_id else find_run(settings)
    now = datetime.now(UTC)
    settings_hash = run_identity(settings, {}).settings_hash
    run_id = given or found or f"{now:%Y%m%d-%H%M%S}-{settings_hash[:6]}"
    parent = work_dir(settings.work_dir)
    with scratch_folder(parent) as scratch:
        check_homes(settings)
        provide_home(parent or scratch)
        grace, hang = settings.grace_period.seconds, settings.hang_timeout.seconds
        status = Status((parent or scratch) / FILE, run_id, grace, hang, nodes.is_first)
        attempt = Attempt(
            run_id=run_id,
            started_at=now,
            settings_hash=settings_hash,
            run_uri=join(settings.output, run_id),
            scratch=scratch,
            staging=scratch / "run",
            inputs=(parent or scratch) / "inputs",
            addressing_style=settings.s3_addressing_style,
            status=status,
            history=AttemptHistory(scratch.name, nodes.is_first),
            timeouts=WorkerTimeouts(hang, grace, status.on_heartbeat),
            nodes=nodes,
            origin="given" if given else "found" if found else "new",
            rerun="start the job again" + " without MNRL_RUN_ID=new" * (settings.run_id == NEW),
        )
        attempt.staging.mkdir()
        try:
            with heartbeats_to(status.on_progress):
                yield attempt
        finally:
            status.close()


def work_dir(path: str) -> Path | None:
    """`MNRL_WORK_DIR`, checked to be writable; None where it is not set.

    Raises:
        JobError: it cannot be written.
    """
    return writable_folder(expand_user(path, "MNRL_WORK_DIR"), "MNRL_WORK_DIR") if path else None


def check_homes(settings: Settings) -> None:
    """Check that `~` in a path means the user's home, before a substitute is made for libraries.

    Raises:
        SettingsError: the user has no home.
    """
    paths = [(env_name(field), getattr(settings, field)) for field in ("output", "base_model", "guide_model")]
    for field in ("train_data", "eval_data"):
        paths += [(env_name(field), source.uri) for source in getattr(settings, field)]
    for variable, path in paths:
        if path.startswith("~"):
            expand_user(path, variable)
