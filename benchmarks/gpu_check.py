"""What can only be seen on a GPU: one command, less than 8 minutes, no network, JSON after every part.

    scripts/gpu-check [--device cpu] [--quick] [--output gpu-check.json] [PART ...]

Each part is a process of its own with a time limit of its own; what it had found by then stays. `--quick` shrinks every
part so far that it ends on a CPU; with `--device cpu` the script itself is checked, and no figure means anything.

`tests`: the tests that need a GPU, among them gradients in fp32, bf16 and fp16, and steps that must not wait for it.
`memory`: training under a capped share of the GPU's memory, next to the same steps without a cap.
`resume`: a run that is stopped and goes on, next to one that is not.
`speed`: ours, the stock recipe in fp32 and bf16, and the packed limit, each at two sizes and two batches: pairs a
    second, peak memory, and of one step how often a kernel was launched and the GPU waited for. 10 steps to warm up,
    30 timed.
`evaluation`: `mnrl-job evaluate` next to the library's evaluator.
`large`: two steps over a batch of 8,192 pairs.

The exit code is 1 where a part failed, or found what should not be.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_parts import PARTS, Check, Facts

# Seconds each part may take; together less than 8 minutes, with what the script itself takes to begin.
LIMITS = {"tests": 100, "memory": 40, "resume": 80, "speed": 155, "evaluation": 45, "large": 40}
# On a CPU the script itself is checked, on a machine that may have other things to do.
PATIENCE = {"cuda": 1, "cpu": 5}
PACKAGES = ("torch", "sentence-transformers", "transformers", "accelerate")


@dataclass(frozen=True)
class PartResult:
    """How a part ended, and the lines it wrote."""

    ok: bool
    exit_code: int | None
    seconds: float
    found: list[Facts]
    output: str


def run_part(name: str, check: Check) -> PartResult:
    """Run a part until it ends or its time is over."""
    lines = check.folder / f"found-{name}.jsonl"
    command = [sys.executable, __file__, "--device", check.device, "--inside", str(check.folder), name]
    output = check.folder / f"{name}.log"
    began = time.monotonic()
    with output.open("w") as log:
        process = subprocess.Popen(
            command + ["--quick"] * check.quick, stdout=log, stderr=log, start_new_session=True, env=environment(check)
        )
        try:
            code = process.wait(LIMITS[name] * PATIENCE[check.device])
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    ok = code == 0 and bool(found) and all(one.get("ok", True) for one in found)
    told = "" if ok else output.read_text(errors="replace")[-4000:]
    return PartResult(ok, code, round(time.monotonic() - began, 1), found, told)


def environment(check: Check) -> dict[str, str]:
    """Without our settings, a network, or on a CPU a GPU; with the memory of workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MNRL_")}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if check.device == "cpu" else {}
    memory = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if check.device == "cuda" else {}
    return kept | hidden | memory | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def how(check: Check) -> Facts:
    """What the figures depend on."""
    import torch

    if check.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu-check: torch finds no GPU here; --device cpu --quick checks the script itself")
    told = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    revision = subprocess.run(told, capture_output=True, text=True).stdout.strip()
    facts: Facts = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "revision": revision}
    facts |= {"device": check.device, "quick": check.quick, "cores": os.cpu_count(), "cuda": torch.version.cuda}
    facts |= {"gpu": torch.cuda.get_device_name() if check.device == "cuda" else None}
    return facts | {"packages": {name: version(name) for name in PACKAGES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless named")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; give some of {', '.join(PARTS)}")
    if options.inside:
        return be_part(options.parts[0], Check(options.device, options.quick, options.inside))
    sys.exit(run_all(options))


def run_all(options: argparse.Namespace) -> int:
    """Every part that is asked for; what is found is written after each."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(options.device, options.quick, Path(folder))
        facts = how(check)
        for name in options.parts or PARTS:
            result = run_part(name, check)
            results[name] = asdict(result)
            options.output.write_text(json.dumps({"how": facts, "parts": results}, indent=2) + "\n", encoding="utf-8")
            ended = "ok" if result.ok else "failed" if result.exit_code is not None else "out of time"
            sys.stderr.write(f"{name}: {ended}, {result.seconds} s\n")
    return 0 if all(one["ok"] for one in results.values()) else 1


def be_part(name: str, check: Check) -> None:
    """In the process of a part: write what it finds line by line."""
    with (check.folder / f"found-{name}.jsonl").open("a", encoding="utf-8") as lines:
        for facts in PARTS[name](check):
            lines.write(json.dumps(facts) + "\n")
            lines.flush()


if __name__ == "__main__":
    main()
