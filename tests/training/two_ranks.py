"""Two processes that found one another as workers do, and do what they are asked one after another."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnrl_job.runtime.outcomes import OUTCOME
from tests.program import ROOT, clean_environment
from tests.servers.s3 import free_port


@dataclass(frozen=True)
class Ranks:
    """The processes, and where they write what is no answer."""

    processes: list[subprocess.Popen[str]]
    log: Path

    def tell(self, role: str, *arguments: object) -> None:
        """Have both do something, see `ranks.py`."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{json.dumps([role, *map(str, arguments)])}\n")
            process.stdin.flush()

    def ask(self, role: str, *arguments: object) -> Any:
        """What the first of them answers."""
        self.tell(role, *arguments)
        assert self.processes[0].stdout is not None
        answer = self.processes[0].stdout.readline()
        assert answer, self.log.read_text()
        return json.loads(answer)


def outcome(log: Path, rank: int) -> str:
    """Where a rank that fails as a worker does writes down why."""
    return str(log.with_name(f"rank-{rank}.json"))


@contextmanager
def started(log: Path) -> Iterator[Ranks]:
    """Both, for as long as the context lasts."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    with log.open("a") as told:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.ranks"],
                env=clean_environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank), **{OUTCOME: outcome(log, rank)}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                cwd=ROOT,
            )
            for rank in range(2)
        ]
    try:
        yield Ranks(processes, log)
    finally:
        for process in processes:
            process.kill()
            process.wait()
