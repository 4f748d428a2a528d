"""The parts of gpu_check.py, each a generator of what it finds; `ok` is false where that should not be."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "training/test_gpu.py",
    "system/test_devices.py",
    "pipeline/test_train.py",
    "pipeline/test_large_models.py",
    "pipeline/test_resume.py",
]
CAPPED_SHARE = 0.6
# Chunks that are cut again draw other dropout.
MOST_APART = 0.3
Facts = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """Where a part runs, whether it is to be small, and a folder for its files."""

    device: str
    quick: bool
    folder: Path


def tests(check: Check) -> Iterator[Facts]:
    files = [str(ROOT / "tests" / name) for name in (TESTS[:2] if check.quick else TESTS)]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    # On a CPU all of them skip themselves.
    ok = done.returncode == 0 and (check.device == "cpu" or "passed" in counts)
    yield {"ok": ok, **counts, "output": "" if ok else done.stdout[-3000:]}


def memory(check: Check) -> Iterator[Facts]:
    from gpu_steps import Recipe, peak_bytes, run_out_of_memory, train_ours

    rows = 8 if check.quick else 512
    recipe = Recipe(check, "tiny" if check.quick else "22M", rows, steps=4)
    free = train_ours(recipe)
    peak = peak_bytes(check.device)
    yield {
        "capped": False,
        "losses": free.losses,
        "activation_recompute": free.activation_recompute,
        "peak_bytes": peak,
    }
    with run_out_of_memory(check.device, int(CAPPED_SHARE * peak)):
        capped = train_ours(recipe)
    apart = max(abs(one - other) for one, other in zip(free.losses, capped.losses, strict=True))
    yield {
        "ok": capped.activation_recompute and apart < MOST_APART,
        "capped": True,
        "losses": capped.losses,
        "activation_recompute": capped.activation_recompute,
        "kept_tokens": capped.kept_tokens,
        "peak_bytes": peak_bytes(check.device),
        "losses_apart": apart,
    }


def resume(check: Check) -> Iterator[Facts]:
    """Whether weights are the same to the bit is told, not demanded."""
    from gpu_steps import tokenizer, untrained_model
    from made_up import pairs, write_beir, write_pairs

    batch, steps = (8, 60) if check.quick else (64, 200)
    model = untrained_model(check, "tiny" if check.quick else "22M")
    rows = pairs(batch * steps, tokenizer())
    beir = write_beir(check.folder / "resume", rows[:100], 20)
    settings = {"TRAIN_DATA": write_pairs(check.folder / "resume.jsonl", rows), "EVAL_DATA": f"eval={beir / 'eval'}"}
    settings |= {"BASE_MODEL": model, "OUTPUT": check.folder / "runs", "BATCH_SIZE": batch, "LEAKAGE_POLICY": "keep"}
    settings |= {"CHECKPOINT_INTERVAL": steps // 10, "PRECISION": "fp32" if check.device == "cpu" else "bf16"}
    whole = start(check, settings, "whole").wait()
    process = start(check, settings, "stopped")
    while process.poll() is None and not list((check.folder / "runs" / "stopped").glob("checkpoints/*/manifest.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    codes = [whole, process.wait(), start(check, settings, "stopped").wait()]
    yield {"codes": codes, "ok": codes == [0, 75, 0]}
    places = [check.folder / "runs" / name for name in ("whole", "stopped")]
    hashes = [hashlib.sha256((place / "model" / "model.safetensors").read_bytes()).hexdigest() for place in places]
    digests = [json.loads((place / "metrics.json").read_text())["training"]["rows_digest"] for place in places]
    yield {"same_rows": digests[0] == digests[1], "ok": digests[0] == digests[1], "same_bits": hashes[0] == hashes[1]}


def start(check: Check, settings: Facts, run_id: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {f"MNRL_{name}": str(value) for name, value in settings.items()}
    environment |= {"MNRL_RUN_ID": run_id}
    program = str(Path(sys.executable).with_name("mnrl-job"))
    return subprocess.Popen([program, "train"], cwd=check.folder, env=environment)


def speed(check: Check) -> Iterator[Facts]:
    from gpu_steps import CONTESTANTS, Recipe

    warm_up, timed = (1, 2) if check.quick else (10, 30)
    for size in ("tiny",) if check.quick else ("22M", "110M"):
        for batch in (8,) if check.quick else (64, 1024):
            # One more step, which is looked into and not timed.
            recipe = Recipe(check, size, batch, warm_up + timed + 1, warm_up)
            for name, contestant in CONTESTANTS.items():
                yield {"contestant": name, "parameters": size, "batch": batch} | contestant(recipe)


def evaluation(check: Check) -> Iterator[Facts]:
    from contestants import library, ours

    contest = made_up_contest(check, 60 if check.quick else 20_000, 20 if check.quick else 2_000)
    mine, theirs = ours(contest, "evaluate"), library(contest, "evaluate", contest.data / "eval")
    yield {"contestant": "ours"} | mine
    yield {"contestant": "library"} | theirs
    apart = abs(mine["ndcg@10_before"] - theirs["ndcg@10_before"])
    yield {"ours / library": mine["eval_seconds"] / theirs["eval_seconds"], "ndcg@10 apart": apart, "ok": apart < 0.005}


def large(check: Check) -> Iterator[Facts]:
    from contestants import ours

    batch = 64 if check.quick else 8_192
    contest = made_up_contest(check, 2 * batch, 8)
    yield {"batch": batch} | ours(contest, batch_size=batch, max_steps=2, leakage_policy="keep")


def made_up_contest(check: Check, rows: int, queries: int) -> Any:
    """As training.py's, over made-up texts."""
    from contestants import Contest
    from gpu_steps import tokenizer, untrained_model
    from made_up import pairs, write_beir

    data = write_beir(check.folder / f"made-up-{rows}", pairs(rows, tokenizer()), queries)
    model = str(untrained_model(check, "tiny" if check.quick else "22M"))
    return Contest(data, data, model, data, rows, (42,), (42,), on_gpu=check.device == "cuda")


PARTS: dict[str, Callable[[Check], Iterator[Facts]]] = {
    "tests": tests,
    "memory": memory,
    "resume": resume,
    "speed": speed,
    "evaluation": evaluation,
    "large": large,
}
