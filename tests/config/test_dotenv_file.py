"""The `.env` file, whose invalid lines are reported with their numbers."""

import os
import re

import pytest

from mnrl_job.config.dotenv_file import read_dotenv
from mnrl_job.errors import DeniedError, SettingsError

SOUND = """\
# a comment

MNRL_SEED=7
export MNRL_EPOCHS = 2  # two
MNRL_OUTPUT='out # no comment'
EMPTY=
CERTIFICATE="-----BEGIN
of more lines
-----END"
TOKEN=${MNRL_SEED}-x
MNRL_QUERY_PROMPT="query: "
"""


@pytest.fixture
def dotenv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


def find_problems(path):
    with pytest.raises(SettingsError) as caught:
        read_dotenv(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_valid_lines_are_read_as_by_python_dotenv(dotenv, encoding, end):
    dotenv.write_bytes(SOUND.replace("\n", end).encode(encoding))
    assert read_dotenv(dotenv) == {
        "MNRL_SEED": "7",
        "MNRL_EPOCHS": "2",
        "MNRL_OUTPUT": "out # no comment",
        "EMPTY": "",
        "CERTIFICATE": f"-----BEGIN{end}of more lines{end}-----END",
        "TOKEN": "7-x",
        "MNRL_QUERY_PROMPT": "query: ",
    }


def test_a_missing_file_and_a_virtual_environment_are_ignored(dotenv):
    assert read_dotenv(dotenv) == {}
    dotenv.mkdir()
    (dotenv / "pyvenv.cfg").touch()
    assert read_dotenv(dotenv) == {}


def test_a_folder_created_by_docker_is_refused(dotenv):
    dotenv.mkdir()
    (problem,) = find_problems(dotenv)
    assert "is a folder" in problem


@pytest.mark.parametrize(
    ("line", "message", "fixed"),
    [
        ("MNRL_SEED: 7", "MNRL_SEED: ", ""),
        ("HF_TOKEN: planted", "HF_TOKEN: ", ""),
        ("export MNRL_SEED", "MNRL_SEED ", ""),
        ("MNRL_SEED", "MNRL_SEED ", ""),
        ("MNRL_SEED 7", "this line ", ""),
        ("- MNRL_SEED=planted", "this line ", ""),
        ("set MNRL_SEED=planted", "this line ", ""),
        ('MNRL_OUTPUT="planted', "MNRL_OUTPUT: unclosed quotes", ""),
        ("MNRL_OUTPUT='planted' x", "MNRL_OUTPUT: unclosed quotes", ""),
        ("$env:MNRL_SEED = 7", "$env:MNRL_SEED ", " MNRL_SEED="),
        ('"MNRL_SEED"=7', '"MNRL_SEED" ', " MNRL_SEED="),
        ("mnrl_seed=7", "mnrl_seed ", " MNRL_SEED="),
        ("{", "this line ", ""),
    ],
)
def test_an_invalid_line_is_reported_with_its_number_and_without_its_value(dotenv, line, message, fixed):
    dotenv.write_text(f"# first\nMNRL_EPOCHS=2\n\n\n{line}\n")
    (problem,) = find_problems(dotenv)
    assert problem.startswith(f"{dotenv}:5: {message}"), problem
    assert fixed in problem
    assert "planted" not in problem


def test_all_invalid_lines_are_reported_at_once(dotenv):
    dotenv.write_text("MNRL_SEED: 7\nMNRL_EPOCHS=2\nMNRL_OUTPUT: out\n")
    assert [problem.split(": ")[0] for problem in find_problems(dotenv)] == [f"{dotenv}:1", f"{dotenv}:3"]


def test_quotes_that_span_a_later_setting_are_refused(dotenv):
    dotenv.write_text('MNRL_OUTPUT="out\nMNRL_SEED=7\nMNRL_EPOCHS="\n')
    (problem,) = find_problems(dotenv)
    assert re.match(f"{dotenv}:1: .*MNRL_OUTPUT .*MNRL_SEED", problem)


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        ("MNRL_SEED=7\n".encode("utf-16"), 1, "UTF-16"),
        ("MNRL_SEED=7\n".encode("utf-16-be"), 1, "UTF-16"),
        ("MNRL_SEED=7\nMNRL_OUTPUT=für\n".encode("latin-1"), 2, "not UTF-8"),
        ("MNRL_SEED=7\n\nMNRL_OUTPUT=日本\n".encode("shift-jis"), 3, "not UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_with_the_line(dotenv, data, line, message):
    dotenv.write_bytes(data)
    (problem,) = find_problems(dotenv)
    assert problem.startswith(f"{dotenv}:{line}: ")
    assert message in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_denied(dotenv):
    dotenv.write_text("MNRL_SEED=7\n")
    dotenv.chmod(0)
    with pytest.raises(DeniedError):
        read_dotenv(dotenv)


def test_the_command_reports_it_in_one_line(mnrl_job, tmp_path):
    (tmp_path / ".env").write_text("MNRL_SEED: 7\nMNRL_EPOCHS=2\n")
    ended = mnrl_job("settings")
    assert (ended.code, ended.stderr.count("\n")) == (64, 1)
    assert ".env:1: MNRL_SEED: " in ended.stderr
