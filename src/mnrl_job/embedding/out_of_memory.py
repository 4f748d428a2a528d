"""Whether an error means that memory ran out: not only torch's allocator says so, but also the libraries below it."""

import re

import torch

# cuBLAS, cuSPARSE and cuSOLVER end their status so, cuDNN 9 names host and device, NCCL and CUDA quote the driver.
SAID_BY_LIBRARIES = re.compile(
    r"CU[A-Z]+_STATUS_(?:\w+_)?ALLOC(?:ATION)?_FAILED|(?:CUDA|Cuda)\b.*\bout of memory|DefaultCPUAllocator: .*memory",
    re.DOTALL,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, CUDA, cuBLAS, cuDNN or NCCL found too little memory for what it was asked."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(SAID_BY_LIBRARIES.search(str(error)))
