"""Counting devices without torch."""

import pytest

from mnrl_job.errors import DeviceError
from mnrl_job.runtime.devices import find_devices, visible_gpus, worker_count


def test_one_worker_a_gpu_and_one_on_a_cpu():
    assert worker_count("auto", 4) == 4
    assert worker_count("auto", 0) == 1
    assert worker_count(2, 0) == 2


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(DeviceError, match=r"^MNRL_NUM_PROCESSES=2\b.*\b1 GPU"):
        worker_count(2, 1)


def test_fewer_gpus_than_asked_for_are_refused(monkeypatch):
    monkeypatch.setattr("mnrl_job.runtime.devices.visible_gpus", lambda: 7)
    assert find_devices("auto", least=7).workers == 7
    with pytest.raises(DeviceError, match=r"^MNRL_MIN_GPUS=8\b.*\b7 GPU.*runtimeClassName"):
        find_devices("auto", least=8)


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, 4), ("", 0), ("0,2", 2), ("-1", 0), ("1,9,2", 1), ("GPU-abc, GPU-def", 2)]
)
def test_only_visible_gpus_count(monkeypatch, chosen, expected):
    monkeypatch.setattr("pynvml.nvmlInit", lambda: None)
    monkeypatch.setattr("pynvml.nvmlShutdown", lambda: None)
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == expected


@pytest.mark.gpu
def test_the_count_equals_torchs():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert visible_gpus() == torch.cuda.device_count()
