"""Device discovery without torch, so that the supervisor stays light."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pynvml

from mnrl_job.errors import EnvironmentFailure

VISIBLE = "CUDA_VISIBLE_DEVICES"
# CUDA ignores all entries after the first invalid one; users and schedulers use these to end the list on purpose.
END_OF_LIST = {"", "-1", "NoDevFiles", "none", "void"}
MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class Devices:
    """The usable GPUs, as named in `CUDA_VISIBLE_DEVICES`, and the number of workers to start.

    Each worker sees one GPU; without GPUs the workers share the CPU.
    """

    gpus: tuple[str, ...]
    workers: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the driver lists. In MIG mode only its instances can be used, as far as the driver lists them."""

    uuid: str
    mig_enabled: bool = False
    instances: tuple[str, ...] = ()


def find_devices(num_processes: Literal["auto"] | int, min_gpus: int = 0) -> Devices:
    """Find the usable GPUs and the number of workers.

    Raises:
        EnvironmentFailure: there are fewer GPUs than `min_gpus` or `num_processes`, or `CUDA_VISIBLE_DEVICES`
            contains an unknown or duplicate GPU.
    """
    gpus = visible_gpus()
    if len(gpus) < min_gpus:
        raise EnvironmentFailure(
            f"MNRL_MIN_GPUS={min_gpus}, but {len(gpus)} GPU(s) are visible; if the container has GPUs "
            "assigned, use the NVIDIA container runtime (--gpus all, runtimeClassName); otherwise see nvidia-smi"
        )
    return Devices(gpus, worker_count(num_processes, len(gpus)))


def visible_gpus() -> tuple[str, ...]:
    """Names of the usable GPUs: those in `CUDA_VISIBLE_DEVICES`, by default all that the driver lists.

    Raises:
        EnvironmentFailure: it contains an unknown or duplicate GPU.
    """
    present = list_gpus()
    chosen = os.environ.get(VISIBLE)
    if not present:
        return ()
    if chosen is not None:
        return select_gpus(chosen, present)
    if not any(gpu.mig_enabled for gpu in present):
        return tuple(map(str, range(len(present))))
    # CUDA's indices count only the first MIG instance of a GPU.
    return tuple(name for gpu in present for name in (gpu.instances if gpu.mig_enabled else (gpu.uuid,)))


def select_gpus(chosen: str, present: tuple[Gpu, ...]) -> tuple[str, ...]:
    """The GPUs in `CUDA_VISIBLE_DEVICES`, up to an entry that ends the list.

    Raises:
        EnvironmentFailure: a GPU is unknown or listed twice.
    """
    names: dict[str, str] = {}
    for name in (entry.strip() for entry in chosen.split(",")):
        if name in END_OF_LIST:
            break
        identity = _identify(name, present)
        if identity is None:
            available = [str(number) for number in range(len(present))]
            available += [uuid for gpu in present for uuid in (gpu.uuid, *gpu.instances)]
            raise EnvironmentFailure(
                f"{VISIBLE}={chosen}: {name} is not a GPU of this machine, or ambiguous; "
                f"available: {', '.join(available[:MAX_LISTED])}" + (", …" if len(available) > MAX_LISTED else "")
            )
        if identity in names:
            raise EnvironmentFailure(f"{VISIBLE}={chosen}: {name} is listed twice; list each GPU once")
        names[identity] = name
    return tuple(names.values())


def _identify(name: str, present: tuple[Gpu, ...]) -> str | None:
    """The index or full UUID of a name, which may be an unambiguous prefix of a UUID."""
    if name.isascii() and name.isdigit():
        return str(int(name)) if int(name) < len(present) else None
    if name.startswith("MIG-GPU-") and any(gpu.uuid == name[4:].split("/")[0] for gpu in present):
        return name  # drivers before R470 name an instance by its GPU and two numbers
    if name.startswith("MIG-") and any(gpu.mig_enabled and not gpu.instances for gpu in present):
        return name  # the driver does not list the instances of a container
    uuids = [uuid for gpu in present for uuid in (gpu.uuid, *gpu.instances) if uuid.startswith(name)]
    return uuids[0] if len(uuids) == 1 and name.startswith(("GPU-", "MIG-")) else None


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs that the NVIDIA driver lists; none without a driver."""
    with _nvml() as has_driver:
        if not has_driver:
            return ()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_query_gpu(handle) for handle in handles)


def _query_gpu(handle: Any) -> Gpu:
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    try:
        if pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return Gpu(uuid)
        indices = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError:
        return Gpu(uuid)
    return Gpu(uuid, True, tuple(filter(None, (_instance_uuid(handle, index) for index in indices))))


def _instance_uuid(handle: Any, index: int) -> str | None:
    """The UUID of a MIG instance; None if there is none at this index, or it is not accessible."""
    try:
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)))
    except pynvml.NVMLError:
        return None


@contextmanager
def _nvml() -> Iterator[bool]:
    """Initialize NVML for the context; yields whether there is a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    except pynvml.NVMLError as error:
        raise EnvironmentFailure(f"the NVIDIA driver does not respond ({error}); fix or reload it") from error
    finally:
        pynvml.nvmlShutdown()


def describe_gpus() -> str:
    """`2 x NVIDIA H100, driver 550.54`, or `no GPU, training on the CPU`."""
    with _nvml() as has_driver:
        if not has_driver:
            return "no GPU, training on the CPU"
        version = pynvml.nvmlSystemGetDriverVersion()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return f"{len(visible_gpus())} x {name}, driver {version}"


def worker_count(num_processes: Literal["auto"] | int, gpus: int) -> int:
    """One worker per GPU; without GPUs 1 unless configured otherwise.

    Raises:
        EnvironmentFailure: more workers are configured than there are GPUs.
    """
    if num_processes == "auto":
        return max(1, gpus)
    if gpus and num_processes > gpus:
        raise EnvironmentFailure(
            f"MNRL_NUM_PROCESSES={num_processes}, but only {gpus} GPU(s) are visible; each worker needs one: "
            "lower MNRL_NUM_PROCESSES or make more GPUs visible in CUDA_VISIBLE_DEVICES"
        )
    return num_processes
