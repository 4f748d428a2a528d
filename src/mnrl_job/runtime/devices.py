"""Which devices there are, asked without torch, so that the supervisor stays light."""

import os
from dataclasses import dataclass
from typing import Literal

import pynvml

from mnrl_job.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs that may be used and the workers to start; without a GPU the workers share the CPU."""

    gpus: int
    workers: int


def find_devices(wanted: Literal["auto"] | int, least: int = 0) -> Devices:
    """Look what there is.

    Raises:
        DeviceError: where there are fewer GPUs than `least`, or than workers wanted.
    """
    gpus = visible_gpus()
    if gpus < least:
        raise DeviceError(
            f"MNRL_MIN_GPUS={least}, but {gpus} GPU(s) are visible; in a container that has been granted some, "
            "NVIDIA's runtime is missing or not the one in use (--gpus all, runtimeClassName), else see nvidia-smi"
        )
    return Devices(gpus, worker_count(wanted, gpus))


def visible_gpus() -> int:
    """GPUs this process may use: what `CUDA_VISIBLE_DEVICES` names, else all that the NVIDIA driver shows."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        present = int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    # CUDA itself stops at the first entry that names no device.
    count = 0
    for entry in (part.strip() for part in chosen.split(",")):
        if not entry or (entry.lstrip("-").isdigit() and not 0 <= int(entry) < present):
            break
        count += 1
    return count


def describe_gpus() -> str:
    """`2 x NVIDIA H100, driver 550.54`, or `no GPU, trains on the CPU`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "no GPU, trains on the CPU"
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        raise DeviceError(f"the NVIDIA driver does not answer ({error}); mend or reload it") from error
    finally:
        pynvml.nvmlShutdown()
    return f"{visible_gpus()} x {name}, driver {driver}"


def worker_count(wanted: Literal["auto"] | int, gpus: int) -> int:
    """One worker per GPU; on a CPU 1 unless the settings say more.

    Raises:
        DeviceError: where more workers are wanted than there are GPUs.
    """
    if wanted == "auto":
        return max(1, gpus)
    if gpus and wanted > gpus:
        raise DeviceError(
            f"MNRL_NUM_PROCESSES={wanted}, but only {gpus} GPU(s) are visible; a GPU holds one worker: "
            "lower MNRL_NUM_PROCESSES or show more GPUs through CUDA_VISIBLE_DEVICES"
        )
    return wanted
