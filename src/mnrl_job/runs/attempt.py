"""Where a run works and writes: its id, its folder at the output, its scratch, its status."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.health import FILE
from mnrl_job.launch.nodes import SINGLE_NODE, Nodes, find_nodes
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.runs.attempt_history import AttemptHistory
from mnrl_job.runs.status import Status
from mnrl_job.storage import Store, open_store
from mnrl_job.storage.uri import expanded, join
from mnrl_job.system.files import scratch_folder, writable_folder
from mnrl_job.system.heartbeat import heartbeats_to
from mnrl_job.system.home import provide_home
from mnrl_job.system.json_text import dumps

# These say where a run happens and how it is shown, not what comes out.
NON_RESULT_SETTINGS = {
    "run_id",
    "output",
    "work_dir",
    "log_format",
    "num_processes",
    "min_gpus",
    "num_nodes",
    "node_rank",
    "master_addr",
    "join_timeout",
    "node_timeout",
    "group_secret",
    "mini_batch_size",
    "gradient_checkpointing",
    "checkpoint_interval",
    "grace_period",
    "hang_timeout",
    "s3_addressing_style",
    "report_to",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run, which will stand at the URI `run`. `staging` holds just what will be published.

    `inputs` keeps what was fetched; in a `MNRL_WORK_DIR` the next attempt finds it again.
    """

    run_id: str
    started_at: datetime
    settings_hash: str
    run: str
    scratch: Path
    staging: Path
    inputs: Path
    addressing_style: str
    status: Status
    diary: AttemptHistory
    care: WorkerTimeouts
    nodes: Nodes = SINGLE_NODE

    def store(self, attempts: int | None = None) -> Store:
        """The run's place, opened anew: credentials may have rotated since the last time."""
        return open_store(self.run, "MNRL_OUTPUT", self.addressing_style, attempts)


@contextmanager
def attempt(settings: Settings) -> Iterator[Attempt]:
    """Name the run, make its scratch, and clean that up afterwards. The run's own place is not touched.

    Raises:
        JobError: the scratch cannot be written, or it cannot be found out which nodes take part.
    """
    nodes = find_nodes(settings, os.environ)
    now = datetime.now(UTC)
    settings_hash = hash_settings(settings)
    run_id = settings.run_id or f"{now:%Y%m%d-%H%M%S}-{settings_hash[:6]}"
    parent = work_dir(settings)
    with scratch_folder(parent) as scratch:
        check_homes(settings)
        provide_home(parent or scratch)
        grace, hang = settings.grace_period.seconds, settings.hang_timeout.seconds
        status = Status((parent or scratch) / FILE, run_id, grace, hang, nodes.is_first)
        place = Attempt(
            run_id=run_id,
            started_at=now,
            settings_hash=settings_hash,
            run=join(settings.output, run_id),
            scratch=scratch,
            staging=scratch / "run",
            inputs=(parent or scratch) / "inputs",
            addressing_style=settings.s3_addressing_style,
            status=status,
            diary=AttemptHistory(scratch.name, nodes.is_first),
            care=WorkerTimeouts(hang, grace, status.follow),
            nodes=nodes,
        )
        place.staging.mkdir()
        try:
            with heartbeats_to(status.progress):
                yield place
        finally:
            status.close()


def work_dir(settings: Settings) -> Path | None:
    """The folder for scratch that the user named, proven to be writable; None for the system's.

    Raises:
        JobError: it cannot be written.
    """
    return writable_folder(expanded(settings.work_dir, "MNRL_WORK_DIR"), "MNRL_WORK_DIR") if settings.work_dir else None


def check_homes(settings: Settings) -> None:
    """What is given by `~` must be the user's own home, not one that is made for libraries.

    Raises:
        SettingsError: there is no such home.
    """
    places = {"MNRL_OUTPUT": [settings.output], "MNRL_BASE_MODEL": [settings.base_model]}
    places |= {"MNRL_GUIDE_MODEL": [settings.guide_model]}
    places |= {"MNRL_TRAIN_DATA": [source.uri for source in settings.train_data]}
    places |= {"MNRL_EVAL_DATA": [source.uri for source in settings.eval_data]}
    for variable, paths in places.items():
        for path in paths:
            if path.startswith("~"):
                expanded(path, variable)


def hash_settings(settings: Settings) -> str:
    """SHA-256 over the settings that can change the result."""
    return hashlib.sha256(dumps(result_settings(settings), sort_keys=True).encode()).hexdigest()


def result_settings(settings: Settings) -> dict[str, Any]:
    """The settings that can change the result, as JSON values."""
    return settings.model_dump(mode="json", exclude=NON_RESULT_SETTINGS)


# These come after training: a run that was refused, or could not be exported, can go on with others.
POST_TRAINING_SETTINGS = {"min_gain", "max_p_value", "guard_evals", "export"}


def resume_identity(settings: Settings, inputs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What all attempts at a run have in common, by name: `settings`, and `inputs` by their SHA-256."""
    settled = {name: value for name, value in result_settings(settings).items() if name not in POST_TRAINING_SETTINGS}
    return {"settings": settled, "inputs": inputs}
