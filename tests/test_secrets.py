"""Planted secrets appear nowhere: not in logs, files, errors, `failure.json` or the process list."""

import json
import logging
import subprocess
from pathlib import Path

import pytest

from mnrl_job import cli
from mnrl_job.deduplication.text_quality import MAX_CHARACTERS, shorten
from mnrl_job.errors import DataError, NotFound, StorageError
from mnrl_job.report.json_file import write_json
from mnrl_job.report.page.query_explorer import in_script
from mnrl_job.runs.publish import record_failure
from mnrl_job.storage import open_store
from mnrl_job.system import logs
from mnrl_job.system.secrets import redact
from tests.program import start_command
from tests.s3_runs import furnish, settings_for
from tests.servers.s3 import BUCKET, free_port, objects

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+planted",
    "AWS_SESSION_TOKEN": "session-planted-0123456789",
    "HF_TOKEN": "hf_plantedplantedplanted",
    "WANDB_API_KEY": "wandb-planted-key",
}
PASSWORD = "planted-password"  # noqa: S105 - it is one on purpose
GROUP_SECRET = "planted-group-words"  # noqa: S105


def with_password(endpoint):
    return endpoint.replace("http://", f"http://somebody:{PASSWORD}@")


def leaks(*texts):
    return [secret for secret in (*PLANTED.values(), PASSWORD, GROUP_SECRET) for text in texts if secret in text]


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().decode(errors="replace")
        except OSError:
            continue


@pytest.mark.parametrize(("name", "log_format"), [("train", "json"), ("evaluate", "text")])
def test_a_run_tells_no_secret_to_logs_files_or_process_list(moto, tmp_path, tiny_model, name, log_format):
    place = furnish(moto, tmp_path, tiny_model)
    environment = settings_for(place, MNRL_WORK_DIR="work", MNRL_LOG_FORMAT=log_format) | moto.environment | PLANTED
    (tmp_path / ".env").write_text(f"MNRL_GROUP_SECRET={GROUP_SECRET}\n")
    log = tmp_path / "log"
    running = start_command(tmp_path, [name], log, fresh=name == "train", **environment)
    while running.poll() is None:
        assert not leaks(*command_lines())
        try:
            running.wait(0.3)
        except subprocess.TimeoutExpired:
            continue
    output = log.read_text()
    assert running.returncode == 0, output
    published = objects(moto, f"{place}/runs/r")
    kept = [path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert not leaks(output, *(content.decode(errors="replace") for content in (*published.values(), *kept)))


@pytest.mark.parametrize("name", ["train", "check"])
def test_a_storage_that_cannot_be_reached_is_told_without_its_password(mnrl_job, tmp_path, name, tiny_model):
    endpoint = with_password(f"http://127.0.0.1:{free_port()}")
    ended = mnrl_job(
        *(name, "--train-data", f"s3://{BUCKET}/nowhere", "--base-model", str(tiny_model), "--output", "out"),
        *("--run-id", "r", "--group-secret", GROUP_SECRET),
        **PLANTED | {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "AKIAPLANTED", "AWS_MAX_ATTEMPTS": "1"},
    )
    assert ended.code == 69, ended.stderr
    assert "127.0.0.1" in ended.last_line
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not leaks(ended.stdout, ended.stderr, *written)


@pytest.mark.parametrize("name", ["train", "check", "evaluate"])
def test_a_credential_that_ends_in_a_line_break_is_refused_before_anything_is_asked(mnrl_job, tmp_path, good, name):
    in_clear = PLANTED["AWS_SESSION_TOKEN"]
    (tmp_path / ".env").write_text(f'HF_TOKEN="{PLANTED["HF_TOKEN"]} "\n')
    ended = mnrl_job(name, **good | {"AWS_SESSION_TOKEN": f"{in_clear}\n", "MNRL_LOG_FORMAT": "json"})
    assert ended.code == 64
    told = json.loads(ended.last_line)
    assert told["retry_helps"] is False
    assert [line.split()[0] for line in told["message"].splitlines()] == ["AWS_SESSION_TOKEN", "HF_TOKEN"]
    assert not leaks(ended.stdout, ended.stderr)
    assert not (tmp_path / "out").exists()


def test_credentials_in_an_s3_uri_are_refused_unquoted(mnrl_job):
    ended = mnrl_job("train", "--train-data", f"s3://key:{PASSWORD}@bucket/data", "--output", "out")
    assert ended.code == 64, ended.stderr
    assert "MNRL_TRAIN_DATA: " in ended.last_line
    assert "AWS_SECRET_ACCESS_KEY" in ended.last_line
    assert not leaks(ended.stdout, ended.stderr)


def test_a_usage_error_shows_no_password(mnrl_job):
    ended = mnrl_job("verify", "runs/r", f"https://somebody:{PASSWORD}@host/runs")
    assert ended.code == 64
    assert not leaks(ended.stdout, ended.stderr)


def test_the_settings_page_shows_no_password(mnrl_job):
    given = {"MNRL_OUTPUT": f"https://somebody:{PASSWORD}@host/runs", "MNRL_GROUP_SECRET": GROUP_SECRET}
    ended = mnrl_job("settings", **given)
    assert ended.code == 0
    assert "https://***@host/runs" in ended.stdout
    assert not leaks(ended.stdout, ended.stderr)


def test_failure_termination_log_and_exit_code_tell_one_story_without_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "TERMINATION_LOG", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    monkeypatch.setenv("HF_TOKEN", PLANTED["HF_TOKEN"])
    failure = StorageError(f"http://somebody:{PASSWORD}@host answered with {PLANTED['HF_TOKEN']} " + "ä" * 5000)
    assert cli.fail(failure) == 69
    raw = (tmp_path / "termination-log").read_bytes()
    told = json.loads(raw)
    assert len(raw) <= 4096
    assert (told["exit_code"], told["class"], told["retry_helps"]) == (69, "storage", True)
    assert told["message"].startswith("http://***@host answered with ***")
    assert not leaks(raw.decode(), capsys.readouterr().err)


def test_a_name_that_is_not_unicode_stands_escaped_in_the_termination_log(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "TERMINATION_LOG", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    monkeypatch.setattr(logs.LOG, "disabled", True)  # several processes of a test runner cannot hand such a text on
    assert cli.fail(NotFound("gr\udcf6\udcdfe.csv does not exist")) == 66
    told = (tmp_path / "termination-log").read_text(encoding="utf-8")
    assert r"gr\udcf6\udcdfe.csv" in told
    assert json.loads(told)["exit_code"] == 66


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://key:pass@host/x", "GET https://***@host/x"),
        ("https://host/x?X-Amz-Signature=abc123&n=1", "https://host/x?X-Amz-Signature=***&n=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("me@example.org wrote s3://bucket/a@b", "me@example.org wrote s3://bucket/a@b"),
        ("the token planted-value was used", "the token *** was used"),
        ("read /var/run/token-file, 4 tokens, true", "read /var/run/token-file, 4 tokens, true"),
    ],
)
def test_what_is_secret_is_starred_and_nothing_else(text, shown):
    environ = {
        "HF_TOKEN": "planted-value",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token-file",
        "TOKENIZERS_PARALLELISM": "true",
        "SOME_KEY": "4",
    }
    assert redact(text, environ) == shown


QUOTED = 'say "friend"\\and enter'
RECORD = {"rows_read": 123456, "share": 0.123456, "uris": (f"s3://bucket/{QUOTED}", "123456"), "123456": None}
STARRED = {"rows_read": 123456, "share": 0.123456, "uris": ["s3://bucket/***", "***"], "123456": None}


@pytest.fixture
def awkward(monkeypatch):
    """Secrets that are a number, and that JSON must escape."""
    monkeypatch.setenv("DB_PASSWORD", "123456")
    monkeypatch.setenv("HF_TOKEN", QUOTED)


def into_record(folder):
    write_json(folder / "audit.json", RECORD)
    return (folder / "audit.json").read_text(encoding="utf-8")


def into_failure(folder):
    record_failure(open_store(str(folder), "MNRL_OUTPUT"), DataError("bad", RECORD), {})
    return (folder / "failure.json").read_text(encoding="utf-8")


def into_log_line(_folder):
    line = logging.makeLogRecord({"msg": "read", "fields": RECORD})
    return logs._JsonLines().format(line)


@pytest.mark.usefixtures("awkward")
@pytest.mark.parametrize("write", [into_record, into_failure, into_log_line, lambda _: in_script(RECORD)])
def test_json_stays_json_whatever_the_secrets_and_they_are_found_before_they_are_escaped(tmp_path, write):
    told = json.loads(write(tmp_path))
    assert {name: told[name] for name in STARRED} == STARRED


@pytest.mark.usefixtures("awkward")
def test_the_termination_log_stays_json_too(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_PASSWORD", "message")
    monkeypatch.setattr(cli, "TERMINATION_LOG", tmp_path / "log")
    (tmp_path / "log").touch()
    cli.fail(StorageError(f"{QUOTED} after 123456 bytes"))
    assert json.loads((tmp_path / "log").read_bytes())["message"] == "*** after *** bytes"


def test_of_a_secret_in_a_text_that_is_cut_no_part_is_left(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", PLANTED["HF_TOKEN"])
    for before in range(MAX_CHARACTERS - 2 * len(PLANTED["HF_TOKEN"]), MAX_CHARACTERS):
        shown = shorten("." * before + PLANTED["HF_TOKEN"] + " and so on" * 10)
        assert len(shown) <= MAX_CHARACTERS
        assert not set(shown) - set(".*… andso")
