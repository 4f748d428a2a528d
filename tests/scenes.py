"""Whole runs for tests that disturb them: small, with dropout, long enough to be met at any moment."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
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
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Scene:
    """A folder with twenty-four pairs, an eval set, a model, and the runs made of them."""

    folder: Path

    def start(
        self, run_id: str, log: str = "", host: Host | None = None, fresh: bool = False, **settings: str
    ) -> Running:
        """Start or go on with a run; what it says goes to a log, `run_id` unless it is named otherwise."""
        chosen = SETTINGS | {"MNRL_RUN_ID": run_id} | settings
        return start_command(self.folder, ["train"], self.folder / f"{log or run_id}.log", host, fresh, **chosen)

    def run(self, run_id: str, **settings: str) -> int:
        """Wait until it has ended. Returns the exit code."""
        return self.start(run_id, **settings).wait(PATIENCE_SECONDS)

    def log(self, run_id: str) -> str:
        path = self.folder / f"{run_id}.log"
        return path.read_text() if path.exists() else ""

    def place(self, run_id: str) -> Path:
        return self.folder / "out" / run_id

    def until(self, process: Running, run_id: str, there: Callable[[], Any]) -> None:
        """Wait for a moment of a run."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not there():
            assert process.poll() is None, self.log(run_id)[-3000:]
            assert time.monotonic() < deadline, self.log(run_id)[-3000:]
            time.sleep(0.02)

    def has_checkpoint(self, run_id: str) -> Callable[[], bool]:
        return lambda: bool(list(self.place(run_id).glob("checkpoints/*/manifest.json")))

    def says(self, run_id: str, text: str) -> Callable[[], bool]:
        return lambda: text in self.log(run_id)

    def failure(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.place(run_id) / "failure.json").read_text())

    def metrics(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.place(run_id) / "metrics.json").read_text())

    def manifest(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.place(run_id) / "manifest.json").read_text())

    def outcome(self, run_id: str) -> tuple[str, str, Any, list[int]]:
        """Of a run that succeeded: the hash of its weights, the digest of its rows, its scores, the logged steps."""
        place = self.place(run_id)
        assert (place / "_SUCCESS").exists(), self.log(run_id)[-3000:]
        assert not (place / "checkpoints").exists()
        metrics = self.metrics(run_id)
        steps = [json.loads(line)["step"] for line in (place / "training_log.jsonl").open()]
        weights = hashlib.sha256((place / "model" / "model.safetensors").read_bytes()).hexdigest()
        return weights, metrics["training"]["rows_digest"], metrics["evaluation"], steps


def make_scene(folder: Path, model: Path) -> Scene:
    pairs = [(f"{anchor} {mark}", f"{positive} {mark} again") for mark in "xyz" for anchor, positive in PAIRS]
    write_pairs(folder / "pairs.jsonl", pairs)
    write_evalset(folder / "faq.json")
    copy_with_dropout(model, folder / "model")
    return Scene(folder)


def copy_with_dropout(model: Path, folder: Path) -> None:
    """So that random numbers count."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "config.json").write_text(json.dumps(config))


def workers_of(process: Running, role: str) -> list[psutil.Process]:
    """The worker processes of a run that do some role, in the order of their ranks.

    On several nodes they are children of the agent, else of the supervisor.
    """
    found = psutil.Process(process.pid).children(recursive=True)
    return sorted((one for one in found if role == one.name() or role in one.cmdline()), key=lambda one: one.pid)


def orphans(scene: Scene) -> list[psutil.Process]:
    """Processes that still work in a scene's folder, and are none of ours."""
    left = []
    for one in psutil.process_iter():
        try:
            if one.pid != os.getpid() and one.cwd() == str(scene.folder) and one.status() != psutil.STATUS_ZOMBIE:
                left.append(one)
        except psutil.Error:
            continue
    return left
