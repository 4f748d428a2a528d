"""The liveness check of a container."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from mnrl_job.health import FILE
from mnrl_job.runs import status
from mnrl_job.system import timestamps
from mnrl_job.system.phases import Phase
from tests.program import clean_environment


def probe(cwd, **environment):
    command = [sys.executable, "-m", "mnrl_job.health"]
    ended = subprocess.run(command, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True)
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    ("phase", "seconds", "code"), [("train", 5, 0), ("train", 60, 1), ("fetch", 60, 0), ("fetch", 300, 1)]
)
def test_a_run_without_progress_for_longer_than_its_limit_is_unhealthy(tmp_path, phase, seconds, code):
    current = status.Status(tmp_path / FILE, "r", grace_seconds=30, hang_seconds=20)
    current.enter_phase(Phase(phase))
    content = current.snapshot() | {
        "updated_at": timestamps.format_utc(datetime.fromtimestamp(time.time() - seconds, UTC))
    }
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    exit_code, output = probe(tmp_path, MNRL_WORK_DIR=str(tmp_path))
    assert exit_code == code
    assert output.startswith(f"{phase}: no progress for " if code else "")


def test_the_progress_of_an_earlier_container_is_replaced_when_a_run_starts(tmp_path):
    (tmp_path / FILE).write_text('{"phase": "train", "updated_at": "2026-01-01T00:00:00Z"}', encoding="utf-8")
    status.Status(tmp_path / FILE, "r", grace_seconds=30, hang_seconds=20)
    assert probe(tmp_path, MNRL_WORK_DIR=str(tmp_path)) == (0, "")


def test_before_a_run_starts_the_check_passes_and_without_a_work_folder_it_fails(tmp_path):
    assert probe(tmp_path, MNRL_WORK_DIR=str(tmp_path)) == (0, "")
    assert probe(tmp_path) == (1, "MNRL_WORK_DIR is not set; nothing to check\n")


def test_the_check_imports_almost_nothing():
    code = (
        "import sys, mnrl_job.health; print([name for name in ('pydantic', 'boto3', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
