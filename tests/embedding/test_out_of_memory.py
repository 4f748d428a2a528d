"""Errors that mean too little memory, whichever library says so, and errors that do not."""

import pytest
import torch

from mnrl_job.embedding.load_errors import is_fault_of_device
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.errors import OutOfMemory
from mnrl_job.worker.main import explain

# As torch 2.13 passes them on.
TOLD = [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details)\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
]
OTHERS = [
    "CUDA error: an illegal memory access was encountered",
    "Connection closed by peer",
    "CUDNN_STATUS_NOT_SUPPORTED",
]


@pytest.mark.parametrize("told", TOLD)
def test_what_libraries_say_is_known_and_ends_with_79(told, tmp_path):
    for kind in (RuntimeError, torch.AcceleratorError, torch.distributed.DistBackendError):
        assert is_out_of_memory(kind(told))
        assert is_fault_of_device(kind(told)), "and says nothing about the model"
        assert isinstance(explain(kind(told), tmp_path), OutOfMemory)


def test_torchs_own_errors_are_known():
    assert is_out_of_memory(torch.OutOfMemoryError("anything"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value), str(caught.value)


@pytest.mark.parametrize("told", OTHERS)
def test_other_errors_are_not(told):
    assert not is_out_of_memory(RuntimeError(told))
    assert not is_out_of_memory(ValueError(TOLD[0]))
