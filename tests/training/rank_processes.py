"""Processes that found one another as workers do, and do what they are asked one after another."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mnrl_job.launch.error_files import ERROR_FILE
from tests import forked
from tests.program import ROOT, clean_environment
from tests.servers.s3 import free_port


@dataclass(frozen=True)
class Ranks:
    """The processes, what they read, what the first of them answers, and where they write what is no answer."""

    processes: list[forked.Forked]
    asked: list[TextIO]
    answers: TextIO
    log: Path

    def tell(self, role: str, *arguments: object) -> None:
        """Have all do something, see `ranks.py`."""
        for one in self.asked:
            one.write(f"{json.dumps([role, *map(str, arguments)])}\n")
            one.flush()

    def ask(self, role: str, *arguments: object) -> Any:
        """What the first of them answers."""
        self.tell(role, *arguments)
        answer = self.answers.readline()
        assert answer, self.log.read_text()
        return json.loads(answer)


@contextmanager
def started(folder: Path, count: int = 2) -> Iterator[Ranks]:
    """So many, for as long as the context lasts. One that fails as a worker does says why in `rank-N.json`."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    log, answers = folder / "log", folder / "answers"
    os.mkfifo(answers)
    asked = [folder / f"asked-{rank}" for rank in range(count)]
    processes = []
    for rank, fifo in enumerate(asked):
        os.mkfifo(fifo)
        environment = clean_environment(**shared, ACCELERATE_USE_CPU="1", RANK=str(rank), LOCAL_RANK=str(rank))
        environment[ERROR_FILE] = str(folder / f"rank-{rank}.json")
        outputs = (log if rank else answers, log)
        given = forked.Start([], ROOT, environment, *outputs, stdin=fifo, module="tests.training.ranks")
        processes.append(forked.start(given))
    try:
        yield Ranks(processes, [fifo.open("w") for fifo in asked], answers.open(), log)
    finally:
        for process in processes:
            process.kill()
            process.wait()
