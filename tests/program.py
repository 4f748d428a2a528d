"""The program as tests run it: as a user would, or forked from a process that has imported everything.

A worker imports torch for seconds and trains on a few rows in a moment. So whole runs are forked (see `forked`) but for
the few that show that the command line works, whose tests ask for `fresh` processes.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests import forked
from tests.hosts import Host

ROOT = Path(__file__).parents[1]

# Variables that are read when they are needed; others may be read when Python starts or imports a library.
HEEDED = ("MNRL_", "AWS_", "KUBEFLOW_", "WANDB_", "MLFLOW_", "HF_TOKEN", "PYTHONPATH")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.strip().splitlines()[-1]


class Running(Protocol):
    """A program that runs, as `subprocess.Popen` has it."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MNRL_", "CUDA_"))}
    chosen = {"HF_HUB_OFFLINE": "1", "MNRL_LOG_FORMAT": "text", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    chosen["MNRL_GENERAL_GUARD"] = "off"  # it would be most of the time of these small runs
    return kept | chosen | extra


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "entrypoint.py"), *arguments]


def start_command(
    folder: Path, arguments: list[str], log: Path, host: Host | None = None, fresh: bool = False, **environment: str
) -> Running:
    """Start a command in a folder, on a host of its own if one is given; what it says is added to a log."""
    given = forked.Start(arguments, folder, clean_environment(**environment), log, log, host=host)
    if can_fork(environment) and not fresh:
        return forked.start(given)
    words = command(*arguments)
    with log.open("a") as told:
        return subprocess.Popen(
            host.command(*words) if host else words, cwd=folder, env=given.environment, stdout=told, stderr=told
        )


def run_command(folder: Path, *arguments: str, fresh: bool = False, **environment: str) -> Ended:
    """Run a command in a folder until it ends."""
    everything = clean_environment(**environment)
    if fresh or not can_fork(environment):
        done = subprocess.run(command(*arguments), cwd=folder, env=everything, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr)
    with tempfile.TemporaryDirectory() as outputs:
        stdout, stderr = Path(outputs, "stdout"), Path(outputs, "stderr")
        code = forked.start(forked.Start([*arguments], folder, everything, stdout, stderr)).wait()
        return Ended(code, stdout.read_text(), stderr.read_text())


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a program that is running already heeds these variables."""
    return all(name.startswith(HEEDED) for name in environment)


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in a process of its own, in this test's environment."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
