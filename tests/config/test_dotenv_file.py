"""What stands in `.env` counts, or is told with its line."""

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


def problems_of(path):
    with pytest.raises(SettingsError) as caught:
        read_dotenv(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sound_lines_are_read_as_ever(dotenv, encoding, end):
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


def test_no_file_is_no_fault_nor_is_a_virtual_environment_of_that_name(dotenv):
    assert read_dotenv(dotenv) == {}
    dotenv.mkdir()
    (dotenv / "pyvenv.cfg").touch()
    assert read_dotenv(dotenv) == {}


def test_a_folder_that_docker_made_is_told(dotenv):
    dotenv.mkdir()
    (problem,) = problems_of(dotenv)
    assert "is a folder" in problem


@pytest.mark.parametrize(
    ("line", "told", "right"),
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
def test_a_line_that_is_no_name_and_value_is_named_with_its_number_and_without_its_value(dotenv, line, told, right):
    dotenv.write_text(f"# first\nMNRL_EPOCHS=2\n\n\n{line}\n")
    (problem,) = problems_of(dotenv)
    assert problem.startswith(f"{dotenv}:5: {told}"), problem
    assert right in problem
    assert "planted" not in problem


def test_all_such_lines_are_named_at_once(dotenv):
    dotenv.write_text("MNRL_SEED: 7\nMNRL_EPOCHS=2\nMNRL_OUTPUT: out\n")
    assert [one.split(": ")[0] for one in problems_of(dotenv)] == [f"{dotenv}:1", f"{dotenv}:3"]


def test_quotes_that_take_in_a_setting_of_a_later_line_are_told(dotenv):
    dotenv.write_text('MNRL_OUTPUT="out\nMNRL_SEED=7\nMNRL_EPOCHS="\n')
    (problem,) = problems_of(dotenv)
    assert re.match(f"{dotenv}:1: .*MNRL_OUTPUT .*MNRL_SEED", problem)


@pytest.mark.parametrize(
    ("data", "line", "told"),
    [
        ("MNRL_SEED=7\n".encode("utf-16"), 1, "UTF-16"),
        ("MNRL_SEED=7\n".encode("utf-16-be"), 1, "UTF-16"),
        ("MNRL_SEED=7\nMNRL_OUTPUT=für\n".encode("latin-1"), 2, "not UTF-8"),
        ("MNRL_SEED=7\n\nMNRL_OUTPUT=日本\n".encode("shift-jis"), 3, "not UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_the_line(dotenv, data, line, told):
    dotenv.write_bytes(data)
    (problem,) = problems_of(dotenv)
    assert problem.startswith(f"{dotenv}:{line}: ")
    assert told in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_denied(dotenv):
    dotenv.write_text("MNRL_SEED=7\n")
    dotenv.chmod(0)
    with pytest.raises(DeniedError):
        read_dotenv(dotenv)


def test_the_command_line_tells_of_it_in_one_line(mnrl_job, tmp_path):
    (tmp_path / ".env").write_text("MNRL_SEED: 7\nMNRL_EPOCHS=2\n")
    ended = mnrl_job("settings")
    assert (ended.code, ended.stderr.count("\n")) == (64, 1)
    assert ".env:1: MNRL_SEED: " in ended.stderr
