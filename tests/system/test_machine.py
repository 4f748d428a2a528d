"""Checks of the machine."""

import psutil
import pytest

from mnrl_job.system import machine
from mnrl_job.system.devices import Devices


@pytest.mark.parametrize(
    ("most", "used", "expected"), [("max", "0", None), ("1000000", "400000", 600_000), (str(2**60), "0", None)]
)
def test_free_memory_of_a_container_is_bounded_by_its_limit(tmp_path, monkeypatch, most, used, expected):
    (tmp_path / "memory.max").write_text(most + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    free = psutil.virtual_memory().available
    assert machine.free_memory() == expected if expected else abs(machine.free_memory() - free) < 0.2 * free


def test_gpus_need_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MIN_SHARED_MEMORY", 2**62)
    assert machine.shared_memory(Devices(gpus=(), workers=2)).status == "passed"
    small = machine.shared_memory(Devices(gpus=("0",), workers=1))
    assert small.status == "warning"
    assert "--shm-size=1g" in small.remedy
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.shared_memory(Devices(gpus=("0",), workers=1)).status == "warning"
