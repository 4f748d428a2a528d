"""Two processes that found one another as workers do, and do what they are asked one after another."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tests import forked
from tests.program import ROOT, clean_environment
from tests.servers.s3 import free_port


@dataclass(frozen=True)
class Ranks:
    """What the processes read, what the first of them answers, and where they write what is no answer."""

    asked: list[TextIO]
    answers: TextIO
    log: Path

    def ask(self, role: str, *arguments: object) -> Any:
        """What the first of them answers, see `ranks.py`."""
        for one in self.asked:
            one.write(f"{json.dumps([role, *map(str, arguments)])}\n")
            one.flush()
        answer = self.answers.readline()
        assert answer, self.log.read_text()
        return json.loads(answer)


@contextmanager
def started(folder: Path) -> Iterator[Ranks]:
    """Both, for as long as the context lasts."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    log, answers = folder / "log", folder / "answers"
    os.mkfifo(answers)
    asked = [folder / f"asked-{rank}" for rank in range(2)]
    processes = []
    for rank, fifo in enumerate(asked):
        os.mkfifo(fifo)
        environment = clean_environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank))
        outputs = (log if rank else answers, log)
        given = forked.Start([], ROOT, environment, *outputs, stdin=fifo, module="tests.training.ranks")
        processes.append(forked.start(given))
    try:
        yield Ranks([fifo.open("w") for fifo in asked], answers.open(), log)
    finally:
        for process in processes:
            process.kill()
            process.wait()
