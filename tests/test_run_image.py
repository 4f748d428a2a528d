"""`make run`: the image runs in the folder where the user is, which may be any, and sees what a relative path names."""

import os
import subprocess

import pytest

from tests.program import ROOT


@pytest.fixture
def folder(tmp_path):
    """A folder with a neighbor, and a `docker` that prints its arguments, one a line."""
    for name in ("here", "neighbor"):
        (tmp_path / name).mkdir()
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    docker.chmod(0o755)
    return tmp_path / "here"


def make_run(folder, **variables):
    """The arguments that docker gets from `make run` in a folder, as a shell starts it there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MNRL_")} | variables
    environment |= {"DOCKER": str(folder.parent / "docker"), "ROOT": str(ROOT)}
    command = 'cd "$0" && exec make -s -C "$ROOT" run ARGS="check --train-data pairs.jsonl"'
    done = subprocess.run(["sh", "-c", command, folder], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_make_run_works_in_any_folder_with_relative_paths(folder):
    words = make_run(folder)
    assert words[-3:] == ["check", "--train-data", "pairs.jsonl"]
    assert words[words.index("--workdir") + 1] == str(folder)
    assert f"{folder}:{folder}:ro" in words
    assert f"MNRL_OUTPUT={folder}/runs" in words


def test_another_folder_to_read_may_be_relative(folder):
    neighbor = folder.parent / "neighbor"
    assert f"{neighbor}:{neighbor}:ro" in make_run(folder, DATA="../neighbor")


def test_settings_come_from_the_env_file_of_the_folder(folder):
    (folder / ".env").write_text("MNRL_OUTPUT=elsewhere\n")
    assert f"MNRL_OUTPUT={folder}/elsewhere" in make_run(folder)
