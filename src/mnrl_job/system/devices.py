"""Which devices there are, asked without torch, so that the supervisor stays light."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pynvml

from mnrl_job.errors import EnvironmentFailure

VISIBLE = "CUDA_VISIBLE_DEVICES"
# CUDA shows nothing from the first entry on that names no device; by these, users and schedulers say so on purpose.
NOTHING_MORE = {"", "-1", "NoDevFiles", "none", "void"}
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs that may be used, as `CUDA_VISIBLE_DEVICES` names them, and the workers to start.

    Each worker is shown one GPU; without any the workers share the CPU.
    """

    gpus: tuple[str, ...]
    workers: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the driver shows.

    Attributes:
        uuid: `GPU-…`.
        is_split: whether it is in MIG mode, where only its instances compute.
        instances: their UUIDs, `MIG-…`, as far as the driver lists them.
    """

    uuid: str
    is_split: bool = False
    instances: tuple[str, ...] = ()


def find_devices(wanted: Literal["auto"] | int, least: int = 0) -> Devices:
    """Look what there is.

    Raises:
        EnvironmentFailure: there are fewer GPUs than `least`, or than workers wanted, or `CUDA_VISIBLE_DEVICES` names
            one that is not there, or one twice.
    """
    gpus = visible_gpus()
    if len(gpus) < least:
        raise EnvironmentFailure(
            f"MNRL_MIN_GPUS={least}, but {len(gpus)} GPU(s) are visible; in a container that has been granted some, "
            "NVIDIA's runtime is missing or not the one in use (--gpus all, runtimeClassName), else see nvidia-smi"
        )
    return Devices(gpus, worker_count(wanted, len(gpus)))


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs this process may use: what `CUDA_VISIBLE_DEVICES` says, else all that the driver shows.

    Raises:
        EnvironmentFailure: it names a GPU that is not there, or one twice.
    """
    present = present_gpus()
    chosen = os.environ.get(VISIBLE)
    if not present:
        return ()
    if chosen is not None:
        return chosen_gpus(chosen, present)
    if not any(gpu.is_split for gpu in present):
        return tuple(map(str, range(len(present))))
    # CUDA's own numbers count no instance but the first.
    return tuple(name for gpu in present for name in (gpu.instances if gpu.is_split else (gpu.uuid,)))


def chosen_gpus(chosen: str, present: tuple[Gpu, ...]) -> tuple[str, ...]:
    """What `CUDA_VISIBLE_DEVICES` names, up to an entry that says that there are no more.

    Raises:
        EnvironmentFailure: a name is that of no GPU here, or stands there twice.
    """
    names: dict[str, str] = {}
    for name in (entry.strip() for entry in chosen.split(",")):
        if name in NOTHING_MORE:
            break
        known = _identify(name, present)
        if known is None:
            there = [str(number) for number in range(len(present))]
            there += [uuid for gpu in present for uuid in (gpu.uuid, *gpu.instances)]
            raise EnvironmentFailure(
                f"{VISIBLE}={chosen}: {name} names no GPU here, or several; there are {', '.join(there[:SHOWN])}"
                + (", …" if len(there) > SHOWN else "")
            )
        if known in names:
            raise EnvironmentFailure(f"{VISIBLE}={chosen}: {name} stands there twice; name each GPU once")
        names[known] = name
    return tuple(names.values())


def _identify(name: str, present: tuple[Gpu, ...]) -> str | None:
    """The number or whole UUID that a name stands for: of UUIDs as many leading characters do as tell them apart."""
    if name.isascii() and name.isdigit():
        return str(int(name)) if int(name) < len(present) else None
    if name.startswith("MIG-GPU-") and any(gpu.uuid == name[4:].split("/")[0] for gpu in present):
        return name  # as drivers before R470 name an instance, by its GPU and two numbers
    if name.startswith("MIG-") and any(gpu.is_split and not gpu.instances for gpu in present):
        return name  # the driver does not list to a container what it may use
    uuids = [uuid for gpu in present for uuid in (gpu.uuid, *gpu.instances) if uuid.startswith(name)]
    return uuids[0] if len(uuids) == 1 and name.startswith(("GPU-", "MIG-")) else None


def present_gpus() -> tuple[Gpu, ...]:
    """All that the NVIDIA driver shows; none where there is no driver."""
    with _driver() as driver:
        if not driver:
            return ()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_look_at(handle) for handle in handles)


def _look_at(handle: Any) -> Gpu:
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    try:
        if pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return Gpu(uuid)
        places = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError:
        return Gpu(uuid)
    return Gpu(uuid, is_split=True, instances=tuple(filter(None, (_instance(handle, place) for place in places))))


def _instance(handle: Any, place: int) -> str | None:
    """The UUID of an instance; None where the place is empty, or not for us."""
    try:
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)))
    except pynvml.NVMLError:
        return None


@contextmanager
def _driver() -> Iterator[bool]:
    """Whether there is a driver to ask, for as long as the context lasts."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    except pynvml.NVMLError as error:
        raise EnvironmentFailure(f"the NVIDIA driver does not answer ({error}); mend or reload it") from error
    finally:
        pynvml.nvmlShutdown()


def describe_gpus() -> str:
    """`2 x NVIDIA H100, driver 550.54`, or `no GPU, trains on the CPU`."""
    with _driver() as driver:
        if not driver:
            return "no GPU, trains on the CPU"
        version = pynvml.nvmlSystemGetDriverVersion()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return f"{len(visible_gpus())} x {name}, driver {version}"


def worker_count(wanted: Literal["auto"] | int, gpus: int) -> int:
    """One worker per GPU; on a CPU 1 unless the settings say more.

    Raises:
        EnvironmentFailure: where more workers are wanted than there are GPUs.
    """
    if wanted == "auto":
        return max(1, gpus)
    if gpus and wanted > gpus:
        raise EnvironmentFailure(
            f"MNRL_NUM_PROCESSES={wanted}, but only {gpus} GPU(s) are visible; a GPU holds one worker: "
            "lower MNRL_NUM_PROCESSES or show more GPUs through CUDA_VISIBLE_DEVICES"
        )
    return wanted
