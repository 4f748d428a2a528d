"""What a run on all of the training data takes, for `check`: time, memory and disk."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.finding import Finding
from mnrl_job.system.machine import free_memory
from mnrl_job.system.quantities import duration, file_size

# Measured by benchmarks/scale.py with 1 to 30 million pairs. Each core has a process beside the supervisor.
MEMORY_PER_PROCESS, MEMORY_PER_PAIR = 250e6, 150
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
    memory = MEMORY_PER_PROCESS * (1 + usable_cpus()) + MEMORY_PER_PAIR * work.pairs
    disk = DISK_PER_PAIR * work.pairs + DISK_PER_TEXT_BYTE * work.text_bytes
    detail = f"about {duration(work.prepare_seconds)}, {file_size(memory)} of memory and {file_size(disk)} of disk"
    if not work.is_sampled:
        return Finding("preparing", "passed", detail)
    return _within_limits(Finding("preparing", "passed", detail), scratch, disk, memory)


def predict_mining(work: Workload, dimension: int, seconds: float, scratch: Path) -> Finding:
    """A round of mining writes the embeddings of all queries and documents to the disk of each machine."""
    disk = 2 * work.pairs * dimension * BYTES_PER_NUMBER
    detail = f"about {duration(seconds)} a round, {file_size(disk)} of disk on each machine"
    return _within_limits(Finding("mining", "passed", detail), scratch, disk)


def _within_limits(finding: Finding, scratch: Path, disk: float, memory: float = 0) -> Finding:
    """The same as a warning, if less is free."""
    free_disk, free = shutil.disk_usage(scratch).free, free_memory()
    if disk > free_disk:
        free, remedy = free_disk, "free space, or set MNRL_WORK_DIR to a larger disk"
    elif memory > free:
        remedy = f"raise the container's memory limit by {file_size(memory - free)}, or take a larger machine"
    else:
        return finding
    detail = f"{finding.detail}, but only {file_size(free)} are free"
    return replace(finding, status="warning", detail=detail, remedy=remedy)
