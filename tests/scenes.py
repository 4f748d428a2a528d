"""Whole runs for tests that interrupt them: small, with dropout, long enough to be interrupted at any moment."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.examples import PAIRS, write_evalset, write_pairs
from tests.hosts import Host
from tests.program import Running, start_command

STEPS = 180
SETTINGS = {
    "MNRL_TRAIN_DATA": "pairs.jsonl",
    "MNRL_EVAL_DATA": "faq.json",
    "MNRL_BASE_MODEL": "model",
    "MNRL_OUTPUT": "out",
    "MNRL_BATCH_SIZE": "8",
    "MNRL_EPOCHS": str(STEPS // 3),
    "MNRL_CHECKPOINT_INTERVAL": "20",
    "MNRL_LEAKAGE_POLICY": "keep",
    "MNRL_PRECISION": "fp32",
}
TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Scene:
    """A folder with twenty-four pairs, an eval set, a model, and the runs made of them."""

    folder: Path

    def start(
        self, run_id: str, log: str = "", host: Host | None = None, fresh: bool = False, **settings: str
    ) -> Running:
        """Start or resume a run; its output goes to the log `log`, by default `run_id`."""
        chosen = SETTINGS | {"MNRL_RUN_ID": run_id} | settings
        return start_command(self.folder, ["train"], self.folder / f"{log or run_id}.log", host, fresh, **chosen)

    def run(self, run_id: str, **settings: str) -> int:
        """Wait until it has ended. Returns the exit code."""
        return self.start(run_id, **settings).wait(TIMEOUT_SECONDS)

    def log(self, run_id: str) -> str:
        path = self.folder / f"{run_id}.log"
        return path.read_text() if path.exists() else ""

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "out" / run_id

    def until(self, process: Running, run_id: str, condition: Callable[[], Any]) -> None:
        """Wait for a condition while a run goes on."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert process.poll() is None, self.log(run_id)[-3000:]
            assert time.monotonic() < deadline, self.log(run_id)[-3000:]
            time.sleep(0.02)

    def has_checkpoint(self, run_id: str) -> Callable[[], bool]:
        return lambda: bool(list(self.run_folder(run_id).glob("checkpoints/*/manifest.json")))

    def logs(self, run_id: str, text: str) -> Callable[[], bool]:
        return lambda: text in self.log(run_id)

    def failure(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.run_folder(run_id) / "failure.json").read_text())

    def metrics(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.run_folder(run_id) / "metrics.json").read_text())

    def manifest(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.run_folder(run_id) / "manifest.json").read_text())

    def outcome(self, run_id: str) -> tuple[str, str, Any, list[int]]:
        """Of a run that succeeded: the hash of its weights, the digest of its rows, its scores, the logged steps."""
        folder = self.run_folder(run_id)
        assert (folder / "_SUCCESS").exists(), self.log(run_id)[-3000:]
        assert not (folder / "checkpoints").exists()
        metrics = self.metrics(run_id)
        steps = [json.loads(line)["step"] for line in (folder / "training_log.jsonl").open()]
        weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
        return weights, metrics["training"]["rows_digest"], metrics["evaluation"], steps


def make_scene(folder: Path, model: Path) -> Scene:
    pairs = [(f"{anchor} {mark}", f"{positive} {mark} again") for mark in "xyz" for anchor, positive in PAIRS]
    write_pairs(folder / "pairs.jsonl", pairs)
    write_evalset(folder / "faq.json")
    copy_with_dropout(model, folder / "model")
    return Scene(folder)


def copy_with_dropout(model: Path, folder: Path) -> None:
    """Copy a model with dropout, so that its weights depend on the random state."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "config.json").write_text(json.dumps(config))


def workers_of(process: Running, role: str) -> list[psutil.Process]:
    """The worker processes of a run with a role, by rank.

    On several nodes they are children of the agent, else of the supervisor.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    workers = (child for child in children if role == child.name() or role in child.cmdline())
    return sorted(workers, key=lambda worker: worker.pid)


def orphans(scene: Scene) -> list[psutil.Process]:
    """Processes left running in a scene's folder."""
    running = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            if process.pid != os.getpid() and process.cwd() == str(scene.folder) and not is_zombie:
                running.append(process)
    return running
