"""Output that nobody reads to the end, as before `| head`, changes no exit code."""

import os
import subprocess

import pytest

from tests.program import clean_environment, command


@pytest.fixture
def broken():
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("settings",), 0), (("--help",), 0), (("--version",), 0), (("check", "--base-model", "./nowhere"), 66)],
)
def test_who_reads_no_output_still_learns_the_code_and_nothing_else(good, tmp_path, broken, arguments, code):
    ended = subprocess.run(
        command(*arguments),
        cwd=tmp_path,
        env=clean_environment(**good),
        stdout=broken,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr
    assert bool(ended.stderr) == bool(code)
