"""For a user without a home or with a read-only one, libraries write to the work folder."""

import getpass
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.errors import EnvironmentFailure, SettingsError
from mnrl_job.runs.attempt import start_attempt
from mnrl_job.storage import local_path
from mnrl_job.system import home, machine
from mnrl_job.system.files import scratch_folder

STRANGER = 12345


@pytest.fixture
def told(monkeypatch):
    warnings = []
    monkeypatch.setattr(home, "warn", warnings.append)
    return warnings


@pytest.fixture
def stranger(monkeypatch, tmp_path):  # noqa: ARG001 - its folder is to be ours
    """A user id that the system does not know, and nothing in the environment about it."""
    monkeypatch.setattr("os.getuid", lambda: STRANGER)
    monkeypatch.setattr("os.geteuid", lambda: STRANGER)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever was there
        monkeypatch.delenv(name)


@pytest.fixture
def unwritable(monkeypatch):
    """Folders that may not be written; root may write all."""
    folders = []
    may = os.access
    monkeypatch.setattr("os.access", lambda path, mode: str(path) not in folders and may(path, mode))
    return folders


@pytest.mark.usefixtures("stranger")
def test_a_user_without_name_and_home_gets_both_and_a_warning(tmp_path, told, monkeypatch):
    monkeypatch.setenv("USER", "")
    home.provide_home(tmp_path)
    assert Path.home() == tmp_path / "home"
    assert getpass.getuser() == f"uid-{STRANGER}"
    assert len(told) == 1
    assert f"user {STRANGER} has no home" in told[0]
    assert machine.caches().status == "passed"


@pytest.mark.parametrize("user", ["known", "stranger"])
def test_a_home_that_is_writable_or_can_be_created_is_kept(tmp_path, told, monkeypatch, user):
    monkeypatch.setattr(home, "_has_passwd_entry", lambda: user == "known")
    for own in (tmp_path, tmp_path / "to" / "be" / "made"):
        environ = {"HOME": str(own), "LOGNAME": "me"}
        home.provide_home(tmp_path / "work", environ)
        assert environ == {"HOME": str(own), "LOGNAME": "me"}
    assert not told
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["", "missing", "missing/deeper"])
def test_a_missing_home_that_cannot_be_created_is_replaced(tmp_path, told, unwritable, monkeypatch, name):
    unwritable.append(str(tmp_path))
    environ = {"HOME": str(tmp_path / name)} if name else {"HOME": "", "USER": "me"}
    monkeypatch.setattr(home, "_has_passwd_entry", lambda: bool(name))
    home.provide_home(tmp_path / "work", environ)
    assert environ["HOME"] == str(tmp_path / "work" / "home")
    assert len(told) == 1


def test_a_read_only_home_is_kept_with_its_credentials_and_models(tmp_path, told, unwritable):
    own, work = tmp_path / "own", tmp_path / "work"
    own.mkdir()
    unwritable += [str(own), str(own / ".cache"), str(own / ".cache" / "huggingface")]
    environ = {"HOME": str(own), "USER": "me"}
    home.provide_home(work, environ)
    assert environ == {"HOME": str(own), "USER": "me", "XDG_CACHE_HOME": str(work / ".cache")}
    assert home.hub_cache(environ) == work / ".cache" / "huggingface"
    (own / ".cache").mkdir()
    environ = {"HOME": str(own), "USER": "me"}
    home.provide_home(work, environ)
    assert home.hub_cache(environ) == work / ".cache" / "huggingface"
    (own / ".cache" / "huggingface").mkdir()
    environ = {"HOME": str(own), "USER": "me"}
    home.provide_home(work, environ)
    assert home.hub_cache(environ) == own / ".cache" / "huggingface", "a mounted cache is still read"
    assert len(told) == 2


@pytest.mark.parametrize("chosen", [{"HF_HOME": "/mine"}, {"XDG_CACHE_HOME": "/mine"}])
def test_configured_caches_are_kept(tmp_path, unwritable, told, chosen):
    (tmp_path / "own").mkdir()
    unwritable.append(str(tmp_path / "own"))
    environ = {"HOME": str(tmp_path / "own"), "USER": "me"} | chosen
    home.provide_home(tmp_path / "work", environ)
    assert {name: environ[name] for name in chosen} == chosen
    assert len(told) == ("HF_HOME" in chosen)


@pytest.mark.usefixtures("stranger", "told")
@pytest.mark.parametrize(
    ("field", "variable"),
    [
        ("output", "MNRL_OUTPUT"),
        ("work_dir", "MNRL_WORK_DIR"),
        ("train_data", "MNRL_TRAIN_DATA"),
        ("eval_data", "MNRL_EVAL_DATA"),
        ("base_model", "MNRL_BASE_MODEL"),
    ],
)
@pytest.mark.parametrize("path", ["~/there", "~", "~nobody-of-that-name/there"])
def test_a_path_in_an_unknown_home_is_a_settings_error(field, variable, path, tmp_path):
    settings = Settings.model_validate({"output": str(tmp_path)} | {field: path})
    with pytest.raises(SettingsError, match=f"^{variable}: {path}: .*HOME"), start_attempt(settings):
        pass


@pytest.mark.usefixtures("stranger")
def test_a_uri_in_an_unknown_home_is_a_settings_error():
    with pytest.raises(SettingsError, match=r"^URI: ~/run: "):
        local_path("~/run", "URI")


def test_no_folder_for_temporary_files_is_an_environment_failure(tmp_path, monkeypatch, told):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(EnvironmentFailure, match="MNRL_WORK_DIR"), scratch_folder(None):
        pass
    environ = {"HOME": str(tmp_path), "USER": "me"}
    home.provide_home(tmp_path / "work", environ)
    assert Path(environ["TMPDIR"]).is_dir()
    assert not told


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_a_run_succeeds_for_a_user_without_name_and_home(tmp_path, good):
    from tests.program import clean_environment, command

    environment = clean_environment(**good)
    for name in ("HOME", "USER", "LOGNAME"):
        environment.pop(name, None)
    os.chown(tmp_path, STRANGER, STRANGER)
    reads = "+dac_read_search"
    ids = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    stranger = ["setpriv", *ids, f"--inh-caps={reads}", f"--ambient-caps={reads}"]
    done = subprocess.run([*stranger, *command("train")], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"user {STRANGER} has no home" in done.stderr
