"""The probe of a container: it looks at what the run says of itself, and reads settings as the run does."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from mnrl_job.health import standstill
from mnrl_job.runtime import dates
from tests.conftest import clean_environment

BEGAN = 1_000_000.0


def told(path, at, phase):
    progress = {"phase": phase, "updated_at": dates.told(datetime.fromtimestamp(at, UTC))}
    path.write_text(json.dumps(progress), encoding="utf-8")
    return path


def test_time_counts_from_when_the_run_last_got_on(tmp_path):
    progress = told(tmp_path / "progress.json", BEGAN + 100, "train")
    assert standstill(progress, BEGAN, BEGAN + 130) == ("train", 30)


def test_before_the_first_word_it_counts_from_the_start_of_the_container_whatever_an_earlier_one_left(tmp_path):
    progress = tmp_path / "progress.json"
    assert standstill(progress, BEGAN, BEGAN + 30) == ("starting", 30)
    progress.write_text("{", encoding="utf-8")
    assert standstill(progress, BEGAN, BEGAN + 30) == ("starting", 30)
    told(progress, BEGAN - 5000, "done")
    assert standstill(progress, BEGAN, BEGAN + 30) == ("starting", 30)


def probe(cwd, **environment):
    command = [sys.executable, "-m", "mnrl_job.health"]
    asked = subprocess.run(command, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True)
    return asked.returncode, asked.stdout


@pytest.mark.parametrize(
    ("phase", "seconds", "code"), [("train", -5, 0), ("train", -60, 1), ("fetch", -60, 0), ("fetch", -300, 1)]
)
def test_a_run_that_stands_still_for_longer_than_the_hang_timeout_is_unhealthy(tmp_path, phase, seconds, code):
    # As in a container, PID 1 must be older than what is told; here it is the machine's.
    told(tmp_path / "progress.json", time.time() + seconds, phase)
    (tmp_path / ".env").write_text("MNRL_HANG_TIMEOUT=20s\n", encoding="utf-8")
    ended, said = probe(tmp_path, MNRL_WORK_DIR=str(tmp_path))
    assert (ended, said.split(":")[0]) == (code, phase)


def test_without_a_work_folder_there_is_nothing_to_look_at(tmp_path):
    assert probe(tmp_path) == (1, "MNRL_WORK_DIR is not set, so there is no progress.json to look at\n")
