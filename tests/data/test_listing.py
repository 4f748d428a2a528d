"""Changed inputs are detected by their listings, without reading them."""

import os
from pathlib import Path

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import locate_inputs
from mnrl_job.data.listing import find_changed_input, list_available_inputs, list_inputs
from mnrl_job.pipeline.inputs import input_uris
from tests.servers.s3 import objects, put

FILES = {"pairs.jsonl": b"{}\n", "eval.json": b"{}", "many/a.jsonl": b"1", "many/b.jsonl": b"22"}
MODEL = {"model/config.json": b"{}", "model/model.safetensors": b"weights"}
NAMES = {"train/pairs", "train/many", "eval/eval", "base_model", "guide_model", "accelerate_config"}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """All kinds of inputs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in (FILES | MODEL | {"fsdp.yaml": b"x"}).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    return settings_for("", accelerate_config="fsdp.yaml", train_data="pairs.jsonl,many=many/*.jsonl")


def settings_for(prefix, **overrides):
    defaults = {
        "train_data": f"{prefix}pairs.jsonl,{prefix}many/",
        "eval_data": f"{prefix}eval.json",
        "base_model": f"{prefix}model",
        "guide_model": f"{prefix}model",
    }
    return Settings.model_validate(defaults | overrides)


def list_located(settings):
    return list_inputs(locate_inputs(input_uris(settings)), settings.accelerate_config)


def available(settings):
    return list_available_inputs(input_uris(settings), settings.accelerate_config)


def shift_modification_time(path, seconds):
    status = Path(path).stat()
    os.utime(path, (status.st_atime, status.st_mtime + seconds))


def replace_content(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[::-1])
    shift_modification_time(path, 5)


def test_all_inputs_are_listed_and_unchanged_inputs_are_equal(settings):
    before = list_located(settings_for("", accelerate_config="fsdp.yaml"))
    assert before.keys() == NAMES
    assert (before["train/many"]["files"], before["train/many"]["bytes"]) == (2, 3)
    assert find_changed_input(before, available(settings_for("", accelerate_config="fsdp.yaml"))) is None
    assert find_changed_input(list_located(settings), available(settings)) is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: Path("pairs.jsonl").write_bytes(b"longer"), "train/pairs"),
        (lambda: replace_content("pairs.jsonl"), "train/pairs"),
        (lambda: shift_modification_time("eval.json", 2), "eval/eval"),
        (lambda: Path("many/c.jsonl").write_bytes(b""), "train/many"),
        (lambda: Path("many/a.jsonl").unlink(), "train/many"),
        (lambda: Path("many/a.jsonl").rename("many/c.jsonl"), "train/many"),
        (lambda: replace_content("model/model.safetensors"), "base_model"),
        (lambda: Path("model/modules.json").write_bytes(b"[]"), "base_model"),
        (lambda: replace_content("fsdp.yaml"), "accelerate_config"),
    ],
)
def test_an_input_that_changed_is_named(settings, change, name):
    before = list_located(settings)
    change()
    changed = find_changed_input(before, available(settings)) or ""
    assert changed.split(":")[0] == name


@pytest.mark.usefixtures("settings")
def test_a_moved_folder_and_truncated_modification_times_are_no_change(tmp_path, monkeypatch):
    before = list_located(settings_for(""))
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        os.utime(file, (int(file.stat().st_mtime),) * 2)
    (moved := tmp_path / "elsewhere").mkdir()
    for name in ("pairs.jsonl", "many", "eval.json", "model"):
        (tmp_path / name).rename(moved / name)
    monkeypatch.chdir(moved)
    assert find_changed_input(before, available(settings_for(""))) is None


def test_deleted_or_inaccessible_inputs_are_not_listed(settings, monkeypatch):
    before = list_located(settings)
    for name in (*FILES, *MODEL, "fsdp.yaml"):
        Path(name).unlink()
    assert available(settings) == {}
    assert find_changed_input(before, {}) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert available(settings_for("s3://nowhere/")) == {}


def test_a_hub_model_that_is_now_a_local_folder_counts_as_changed(settings):
    before = list_located(settings)
    del before["base_model"]
    assert (find_changed_input(before, available(settings)) or "").startswith("base_model: ")


@pytest.mark.usefixtures("settings")
def test_listing_reads_no_file(settings, monkeypatch):
    def refuse(*_):
        raise AssertionError("read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("hashlib.file_digest", refuse)
    monkeypatch.setattr("mnrl_job.data.inputs.sha256_of", refuse)
    assert find_changed_input(list_located(settings), available(settings)) is None


def test_changed_objects_are_detected_by_their_etags(uri, server):
    put(server, f"{uri}", FILES | MODEL)
    before = list_located(settings_for(f"{uri}/"))
    assert before.keys() == NAMES - {"accelerate_config"}
    put(server, uri, objects(server, uri))  # the same again, later
    assert find_changed_input(before, available(settings_for(f"{uri}/"))) is None
    put(server, uri, {"eval.json": b"[]"})
    assert (find_changed_input(before, available(settings_for(f"{uri}/"))) or "").startswith(
        "eval/eval: its files were changed"
    )
