"""The devices of a worker, and the memory it used."""

import resource

import torch
from accelerate import PartialState


def peak_memory() -> int:
    """Peak memory of this process in bytes: of the GPU, or on a CPU of the machine."""
    if PartialState().device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe_devices(state: PartialState) -> str:
    """`2 x NVIDIA H100` or `1 x CPU (2 threads)`."""
    if state.device.type == "cuda":
        return f"{state.num_processes} x {torch.cuda.get_device_name(state.device)}"
    return f"{state.num_processes} x CPU ({torch.get_num_threads()} threads)"
