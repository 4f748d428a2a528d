"""Fetching and publishing 1 GiB, ours against `aws s3 cp` and `rclone copy`, on one local S3 server, side by side.

    python benchmarks/storage.py --aws PATH [--rounds 3] [--megabytes 1024] [--results FILE]

Each round runs every tool once per case, in rotating order, each as a fresh process with a fresh target, so start-up
counts for all. Publishing by ours includes reading every byte back, which the other two do not do.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = ("ACCESSKEY1", "SECRETKEY1")
SMALL_FILES = 2000
OURS = """
import sys
from pathlib import Path
from mnrl_job.storage import open_store
from mnrl_job.storage.transfer import download, upload
way, uri, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
store = open_store(uri, "bench")
if way == "fetch":
    download(store, list(store.list_objects()), folder)
else:
    upload(store, {path.name: path for path in folder.iterdir()})
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--aws", required=True, help="the aws command line program")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--megabytes", type=int, default=1024)
    options.add_argument("--results", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, server(Path(name) / "server") as environment:
        folder = Path(name)
        cases = {"one big file": write(folder / "one", 1, chosen.megabytes)}
        cases["2,000 small files"] = write(folder / "many", SMALL_FILES, chosen.megabytes)
        seconds = measure(chosen.aws, cases, folder, environment, chosen.rounds)
    report(seconds, chosen)


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """`rclone serve s3` over a folder; yields the environment its clients need."""
    (folder / "bench").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [rclone(), "serve", "s3", "--auth-key", ",".join(KEYS), "--addr", address, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    endpoint = f"http://{address}"
    try:
        yield os.environ | {
            "AWS_ACCESS_KEY_ID": KEYS[0],
            "AWS_SECRET_ACCESS_KEY": KEYS[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "Other",
            "RCLONE_CONFIG_S_ENDPOINT": endpoint,
            "RCLONE_CONFIG_S_ACCESS_KEY_ID": KEYS[0],
            "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": KEYS[1],
        }
    finally:
        process.terminate()
        process.wait()


def rclone() -> str:
    return str(Path(sys.executable).with_name("rclone"))


def write(folder: Path, count: int, megabytes: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.bin").write_bytes(os.urandom((megabytes << 20) // count))
    return folder


def measure(
    aws: str, cases: dict[str, Path], folder: Path, environment: dict[str, str], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds by case and tool, one number a round."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        for case, source in cases.items():
            for way in ("publish", "fetch"):
                tools = ["ours", "aws s3 cp", "rclone copy"]
                for tool in tools[turn % 3 :] + tools[: turn % 3]:
                    remote = f"bench/{source.name}-{tool.split()[0]}"
                    target = folder / "fetched"
                    shutil.rmtree(folder / "server" / remote if way == "publish" else target, ignore_errors=True)
                    # The server keeps what it knows of a folder; a new name each round keeps the rounds alike.
                    command = tool_command(tool, way, f"{remote}-{turn}", source if way == "publish" else target, aws)
                    os.sync()  # the disk still writes what the last one left
                    began = time.perf_counter()
                    subprocess.run(command, env=environment, check=True, capture_output=True)
                    took = time.perf_counter() - began
                    seconds.setdefault(f"{way} {case}", {}).setdefault(tool, []).append(took)
                    check(source, target) if way == "fetch" else None
    return seconds


def tool_command(tool: str, way: str, remote: str, folder: Path, aws: str) -> list[str]:
    if tool == "ours":
        return [sys.executable, "-c", OURS, way, f"s3://{remote}", str(folder)]
    if tool == "aws s3 cp":
        ends = [str(folder), f"s3://{remote}"]
        return [aws, "s3", "cp", "--recursive", "--only-show-errors", *(ends if way == "publish" else ends[::-1])]
    ends = [str(folder), f"S:{remote}"]
    return [rclone(), "copy", *(ends if way == "publish" else ends[::-1])]


def check(source: Path, fetched: Path) -> None:
    sizes = [{path.name: path.stat().st_size for path in folder.glob("*.bin")} for folder in (source, fetched)]
    if sizes[0] != sizes[1]:
        raise SystemExit("a tool did not fetch everything")


def report(seconds: dict[str, dict[str, list[float]]], chosen: argparse.Namespace) -> None:
    print(f"median seconds of {chosen.rounds} rounds, {chosen.megabytes} MiB, {os.cpu_count()} cores")  # noqa: T201
    table = {}
    for case, by_tool in seconds.items():
        medians = {tool: statistics.median(times) for tool, times in by_tool.items()}
        best = min(value for tool, value in medians.items() if tool != "ours")
        table[case] = {"seconds": by_tool, "median": medians, "ours_to_best": medians["ours"] / best}
        shown = "  ".join(f"{tool} {medians[tool]:6.2f}" for tool in ("ours", "aws s3 cp", "rclone copy"))
        print(f"  {case:<26}{shown}  ours / best {medians['ours'] / best:5.2f}")  # noqa: T201
    if chosen.results:
        facts = {"megabytes": chosen.megabytes, "cores": os.cpu_count(), "platform": platform.platform()}
        chosen.results.write_text(json.dumps(facts | {"cases": table}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
