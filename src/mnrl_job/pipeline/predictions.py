"""What a run on all of the training data takes, for `check`: time, memory and disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mnrl_job.system.finding import Finding
from mnrl_job.system.machine import free_memory
from mnrl_job.system.quantities import duration, file_size

# Of the supervisor, measured with 0.2 and 1 million pairs of 0.4 kB, and with 0.2 million of 1.2 kB.
MEMORY_AT_LEAST, MEMORY_PER_PAIR, MEMORY_PER_TEXT_BYTE = 130e6, 180, 1.1
DISK_PER_PAIR, DISK_PER_TEXT_BYTE = 60, 2.7
BYTES_PER_NUMBER = 4


@dataclass(frozen=True, slots=True)
class Workload:
    """All of the training data: its pairs to train on, their size, the steps of the run, and the time to prepare them.

    With `is_sampled` they are estimated from a sample.
    """

    pairs: int
    text_bytes: float
    steps: int
    prepare_seconds: float
    is_sampled: bool = False


def predict_preparation(work: Workload, scratch: Path) -> Finding:
    """What preparing takes on this machine. Only what is still to come is compared with its limits."""
    memory = MEMORY_AT_LEAST + MEMORY_PER_PAIR * work.pairs + MEMORY_PER_TEXT_BYTE * work.text_bytes
    disk = DISK_PER_PAIR * work.pairs + DISK_PER_TEXT_BYTE * work.text_bytes
    detail = f"about {duration(work.prepare_seconds)}, {file_size(memory)} of memory and {file_size(disk)} of disk"
    if not work.is_sampled:
        return Finding("preparing", "passed", detail)
    return _beyond_disk("preparing", detail, disk, scratch) or _within_memory("preparing", detail, memory)


def predict_mining(work: Workload, dimension: int, seconds: float, scratch: Path) -> Finding:
    """A round of mining writes the embeddings of all queries and documents to the disk of each machine."""
    disk = 2 * work.pairs * dimension * BYTES_PER_NUMBER
    detail = f"about {duration(seconds)} a round, {file_size(disk)} of disk on each machine"
    return _beyond_disk("mining", detail, disk, scratch) or Finding("mining", "passed", detail)


def _beyond_disk(check: str, detail: str, disk: float, scratch: Path) -> Finding | None:
    free = shutil.disk_usage(scratch).free
    if disk <= free:
        return None
    remedy = "free space, or set MNRL_WORK_DIR to a larger disk"
    return Finding(check, "warning", f"{detail}, but only {file_size(free)} are free", remedy)


def _within_memory(check: str, detail: str, memory: float) -> Finding:
    free = free_memory()
    if memory <= free:
        return Finding(check, "passed", detail)
    remedy = f"raise the container's memory limit by {file_size(memory - free)}, or take a larger machine"
    return Finding(check, "warning", f"{detail}, but only {file_size(free)} are free", remedy)
