"""Containers as a user starts them: by `docker run`, without privileges, with a read-only root and no network."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.program import Ended

DOCKER = os.environ.get("DOCKER") or "docker"
# Of a busy machine, too.
PATIENCE_SECONDS = 900
# Nobody in the image's /etc/passwd has this number.
ARBITRARY_USER = "12345:0"
# Settings of a run that can be met at work.
LONG = {"MNRL_EPOCHS": "300", "MNRL_CHECKPOINT_INTERVAL": "20", "MNRL_PRECISION": "fp32"}


def docker(*arguments: str) -> str:
    """What a docker command prints; it must succeed."""
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    name: str
    process: subprocess.Popen[str]

    def inside(self, path: str) -> bytes:
        """The content of a file in the container; empty where there is none yet."""
        command = [DOCKER, "exec", self.name, "cat", path]
        return subprocess.run(command, capture_output=True, check=False).stdout

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([DOCKER, "exec", self.name, *command], capture_output=True, text=True, check=False)

    def until(self, there: Callable[[], Any]) -> None:
        """Wait for a moment of the run."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not there():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.2)

    def end(self) -> Ended:
        """Wait until it has ended. The exit code is that of `docker run`."""
        try:
            stdout, stderr = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            docker("kill", self.name)
            raise
        return Ended(self.process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Image:
    """The image under test, with a folder that its containers see as /data (read-only) and one they see as /output."""

    name: str
    folder: Path
    network: str = "none"
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str, flags: tuple[str, ...] = (), user: str = "", **settings: str) -> Container:
        """`docker run` as docs/image.md tells it."""
        name = f"mnrl-job-test-{uuid.uuid4().hex[:12]}"
        chosen = self.environment | settings
        started = subprocess.Popen(
            [
                *(DOCKER, "run", "--rm", "--name", name, "--read-only", "--cap-drop", "ALL"),
                *("--security-opt", "no-new-privileges", "--network", self.network),
                *(("--user", user) if user else ()),
                *("--tmpfs", "/tmp", "--tmpfs", "/work", "--tmpfs", "/cache"),  # noqa: S108 # in the container
                *("--volume", f"{self.folder / 'data'}:/data:ro", "--volume", f"{self.folder / 'output'}:/output"),
                *(word for one, value in chosen.items() for word in ("--env", f"{one}={value}")),
                *(*flags, self.name, *command),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Container(name, started)

    def run(self, *command: str, **options: Any) -> Ended:
        return self.start(*command, **options).end()

    def shell(self, script: str, user: str = "") -> str:
        """What a shell in the container prints."""
        ended = self.run("-c", script, flags=("--entrypoint", "sh"), user=user)
        assert ended.code == 0, ended.stderr
        return ended.stdout.strip()


def checkpoints(image: Image) -> list[Any]:
    return [*(image.folder / "output" / "r" / "checkpoints").glob("*/manifest.json")]


def signal_worker(container: Container, name: str) -> None:
    """Send a signal to the worker that trains, from inside: its user may."""
    code = (
        "import psutil\n"
        "for one in psutil.process_iter(['cmdline']):\n"
        "    if {'mnrl_job.worker', 'train'} <= {*(one.info['cmdline'] or ())}:\n"
        f"        one.send_signal(psutil.signal.{name})"
    )
    done = container.execute("python", "-c", code)
    assert done.returncode == 0, done.stderr
