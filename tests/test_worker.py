"""What a worker makes of a library's exceptions."""

import torch

from mnrl_job.errors import MemoryLimit
from mnrl_job.worker import explain


def test_running_out_of_device_memory_has_its_own_code_and_a_remedy():
    error = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"))
    assert isinstance(error, MemoryLimit)
    assert error.code == 79
    assert "Tried to allocate 2.00 GiB.; lower MNRL_BATCH_SIZE" in str(error)


def test_a_fault_of_ours_stays_one():
    assert explain(KeyError("x")) is None
