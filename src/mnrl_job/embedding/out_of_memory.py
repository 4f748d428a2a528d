"""Whether an error means that memory ran out: torch's allocator raises its own error, the libraries below it do not."""

import re

import torch

# Status names of cuBLAS, cuSPARSE and cuSOLVER end so; cuDNN 9 names host and device; NCCL and CUDA quote the driver.
LIBRARY_MESSAGES = re.compile(
    r"CU[A-Z]+_STATUS_(?:\w+_)?ALLOC(?:ATION)?_FAILED|(?:CUDA|Cuda)\b.*\bout of memory|DefaultCPUAllocator: .*memory",
    re.DOTALL,
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(LIBRARY_MESSAGES.search(str(error)))
