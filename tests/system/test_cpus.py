"""Usable CPUs by affinity and by simulated and real cgroup quotas."""

import os

import pytest

from mnrl_job.launch.workers import worker_environment
from mnrl_job.system import cpus
from mnrl_job.system.cpus import usable_cpus
from mnrl_job.system.devices import Devices
from tests.control_groups import control_group
from tests.program import run_python


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight processors; the control group of this process, and what stands in the files of groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpus, "CGROUP", tmp_path)
    monkeypatch.setattr(cpus, "PROC_CGROUP", tmp_path / "own")

    def of(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)

    return of


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/pod/main\n", {"pod/cpu.max": "300000 100000\n", "pod/main/cpu.max": "max 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("5:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ("5:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        # Docker of version 1 names the host's path, and shows the group itself at the top.
        ("5:cpuacct,cpu:/docker/a\n", {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("5:cpuset:/\n", {"cpu.max": "max"}, 8),
    ],
)
def test_the_smallest_quota_of_a_cgroup_and_its_ancestors_counts(machine, own, files, expected):
    machine(own, files)
    assert usable_cpus() == expected


def test_workers_share_the_cpus_and_do_not_spin_when_idle(machine, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    machine("0::/\n", {"cpu.max": "400000 100000\n"})
    shared = worker_environment(Devices(gpus=(), workers=2))
    assert (shared["OMP_NUM_THREADS"], shared["GOMP_SPINCOUNT"]) == ("2", "10000")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in worker_environment(Devices(gpus=(), workers=2)), "it would outdo what the user says"


def test_a_real_quota_is_respected():
    code = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
from mnrl_job.system.cpus import usable_cpus
print(usable_cpus())
"""
    with control_group("cpu", "cpu.cfs_quota_us", 100_000) as processes:
        assert run_python(code, processes).communicate(timeout=60)[0].strip() == "1"
