"""What is installed is what was locked: every file by its hash, and every package with its licence listed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
HASHED = [f"requirements{kind}.lock" for kind in ("", "-dev", "-track", "-export", "-cuda")]


def pinned(lock):
    return dict(PINNED.findall((ROOT / lock).read_text()))


@pytest.mark.parametrize("lock", HASHED)
def test_every_package_has_hashes(lock):
    blocks = re.split(r"^(?=[a-z])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pinned(lock))
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block)] == []


def test_what_tests_run_with_is_what_a_job_runs_with():
    job, dev = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert {name: dev.get(name) for name in job} == job


def test_trackers_are_installed_beside_a_job_as_they_are_tested():
    assert pinned("requirements-track.lock").items() <= pinned("requirements-dev.lock").items()
    assert not pinned("requirements-track.lock").keys() & pinned("requirements.lock").keys()


def test_the_cuda_build_of_torch_is_the_release_that_is_locked():
    assert pinned("requirements-cuda.lock")["torch"] == pinned("requirements-torch.lock")["torch"]
    assert not pinned("requirements-cuda.lock").keys() & pinned("requirements.lock").keys()


def test_the_licence_of_every_package_is_listed():
    rows = re.findall(
        r"^\| ([^ |]+) \| ([^ |]+) \| [^|]*\w[^|]* \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE
    )
    listed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in rows if name != "Name"}
    assert listed == pinned("requirements.lock") | pinned("requirements-torch.lock")
