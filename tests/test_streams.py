"""What is written to a pipe that nobody reads, to a program that reads JSON, and to terminals of all kinds."""

import json
import os
import pty
import re
import subprocess
import termios
from functools import partial
from pathlib import Path

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


@pytest.mark.parametrize("name", ["check", "train", "evaluate"])
def test_with_json_logs_both_streams_are_json_with_the_result_as_fields(mnrl_job, good, name):
    ended = mnrl_job(name, **good | {"MNRL_LOG_FORMAT": "json"})
    assert ended.code == 0, ended.stderr
    results, log = ([json.loads(line) for line in stream.splitlines()] for stream in (ended.stdout, ended.stderr))
    assert all({"time", "level", "message"} <= line.keys() for line in results + log)
    if name == "check":
        assert {line["status"] for line in results if "check" in line} <= {"passed", "warning"}
        assert results[-1]["rows_to_train_on"]
        return
    (result,) = results
    scores = result["evaluation"]["faq"]["ndcg@10"]
    if name == "evaluate":
        assert scores.keys() == {"bm25", "score"}
        assert "model" not in result
    else:
        assert scores["gain"] == pytest.approx(scores["after"] - scores["before"])
        assert len(scores["confidence_interval"]) == 2
        assert Path(good["MNRL_OUTPUT"]).name in result["model"]


@pytest.mark.parametrize(
    "arguments", [(), ("trian",), ("train", "--nonsense"), ("verify",), ("train",), ("verify", "./nowhere")]
)
def test_with_json_logs_every_failure_is_json(mnrl_job, arguments):
    ended = mnrl_job(*arguments, MNRL_LOG_FORMAT="json")
    assert ended.stdout == ""
    assert json.loads(ended.last_line)["exit_code"] == ended.code
    assert all(json.loads(line) for line in ended.stderr.splitlines())


def test_a_usage_error_is_shown_with_the_usage(mnrl_job):
    ended = mnrl_job("train", "--nonsense")
    assert ended.code == 64
    assert ended.stderr.startswith("Usage: ")
    assert ended.last_line.startswith("Error: No such option '--nonsense'.")


def on_terminal(columns, *arguments, **environment):
    """What a command writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.Popen(
            command(*arguments), env=clean_environment(**environment), stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        written = b"".join(iter(partial(read_until_hangup, terminal), b""))
        process.wait()
    return written.decode().replace("\r\n", "\n")


def read_until_hangup(terminal):
    try:
        return terminal.read(4096)
    except OSError:  # Linux: all writers have closed it
        return b""


def test_a_terminal_gets_colors_and_its_own_width():
    written = on_terminal(60, "settings", TERM="xterm", NO_COLOR="")
    assert "\x1b[" in written
    meanings = [line for line in written.splitlines() if line.startswith("    ")]
    assert 40 < max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in meanings) <= 60
    failed = on_terminal(60, "verify", "./nowhere", TERM="xterm", NO_COLOR="", MNRL_LOG_FORMAT="auto")
    assert re.search(r"\x1b\[31m.*error: ", failed)


@pytest.mark.parametrize("plain", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("arguments", [("settings",), ("verify", "./nowhere")])
def test_a_terminal_without_colors_gets_plain_text(plain, arguments):
    written = on_terminal(60, *arguments, **plain)
    assert written
    assert "\x1b" not in written


def test_a_pipe_gets_plain_text_of_80_columns(mnrl_job):
    shown = mnrl_job("settings", TERM="xterm", COLUMNS="200").stdout
    assert "\x1b" not in shown
    assert 60 < max(map(len, shown.splitlines())) <= 80
