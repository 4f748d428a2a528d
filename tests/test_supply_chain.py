"""What is installed is what was locked: every file by its hash, and every package with its license listed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mnrl_job import __version__

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
HASHED = [f"requirements{kind}.lock" for kind in ("", "-dev", "-track", "-export", "-cuda", "-supply")]


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


def test_exporters_are_installed_beside_a_job_without_changing_it():
    assert not pinned("requirements-export.lock").keys() & pinned("requirements.lock").keys()


def test_the_cuda_build_of_torch_is_the_release_that_is_locked():
    assert pinned("requirements-cuda.lock")["torch"] == pinned("requirements-torch.lock")["torch"]
    assert not pinned("requirements-cuda.lock").keys() & pinned("requirements.lock").keys()


def test_the_license_of_every_package_is_listed():
    rows = re.findall(
        r"^\| ([^ |]+) \| ([^ |]+) \| [^|]*\w[^|]* \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE
    )
    listed = [(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in rows if name != "Name"]
    locks = [pinned(f"requirements{kind}.lock") for kind in ("", "-torch", "-track", "-export")]
    assert set(listed) == {(name, version) for lock in locks for name, version in lock.items()}


def release_notes(*arguments):
    return subprocess.run([ROOT / "scripts/release-notes", *arguments], capture_output=True, text=True, check=False)


def test_the_notes_of_a_release_are_this_versions_part_of_the_changelog():
    notes = release_notes(__version__).stdout.strip()
    assert notes
    assert notes in (ROOT / "CHANGELOG.md").read_text()
    assert "\n## " not in notes


def test_links_in_the_notes_of_a_release_lead_to_its_tag(tmp_path):
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts/release-notes", tmp_path / "scripts")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    dated = re.sub(rf"^## {re.escape(__version__)}.*$", f"## {__version__} (2026-12-01)", changelog, flags=re.MULTILINE)
    (tmp_path / "CHANGELOG.md").write_text(dated)

    tag, url = f"v{__version__}", "https://example.org/mnrl-job"
    notes = subprocess.run([script, __version__, tag, url], capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"\]\(([^)]+)\)", notes)
    assert f"{url}/blob/{tag}/k8s/README.md" in targets
    assert [target for target in targets if not target.startswith("https://")] == []


@pytest.mark.parametrize(("version", "tag"), [("999.0.0", "v999.0.0"), (__version__, "v999.0.0")])
def test_no_release_is_made_of_another_version_than_the_tag_or_without_notes(version, tag):
    ended = release_notes(version, tag, "https://example.org/mnrl-job")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "999.0.0" in ended.stderr
