"""Whether a run's inputs are those it was made of is told by a listing, and no byte is read for it."""

import os
from pathlib import Path

import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import locate_inputs
from mnrl_job.data.listing import find_other, listings, listings_in_reach
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
    return of("", accelerate_config="fsdp.yaml", train_data="pairs.jsonl,many=many/*.jsonl")


def of(place, **more):
    given = {
        "train_data": f"{place}pairs.jsonl,{place}many/",
        "eval_data": f"{place}eval.json",
        "base_model": f"{place}model",
        "guide_model": f"{place}model",
    }
    return Settings.model_validate(given | more)


def taken(settings):
    return listings(locate_inputs(settings), settings)


def age(path, seconds):
    facts = Path(path).stat()
    os.utime(path, (facts.st_atime, facts.st_mtime + seconds))


def replace_one(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[::-1])
    age(path, 5)


def test_all_inputs_are_listed_and_the_same_when_nothing_happened(settings):
    was = taken(of("", accelerate_config="fsdp.yaml"))
    assert was.keys() == NAMES
    assert (was["train/many"]["files"], was["train/many"]["bytes"]) == (2, 3)
    assert find_other(was, listings_in_reach(of("", accelerate_config="fsdp.yaml"))) is None
    assert find_other(taken(settings), listings_in_reach(settings)) is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: Path("pairs.jsonl").write_bytes(b"longer"), "train/pairs"),
        (lambda: replace_one("pairs.jsonl"), "train/pairs"),
        (lambda: age("eval.json", 2), "eval/eval"),
        (lambda: Path("many/c.jsonl").write_bytes(b""), "train/many"),
        (lambda: Path("many/a.jsonl").unlink(), "train/many"),
        (lambda: Path("many/a.jsonl").rename("many/c.jsonl"), "train/many"),
        (lambda: replace_one("model/model.safetensors"), "base_model"),
        (lambda: Path("model/modules.json").write_bytes(b"[]"), "base_model"),
        (lambda: replace_one("fsdp.yaml"), "accelerate_config"),
    ],
)
def test_an_input_that_changed_is_named(settings, change, name):
    was = taken(settings)
    change()
    other = find_other(was, listings_in_reach(settings)) or ""
    assert other.split(":")[0] == name


@pytest.mark.usefixtures("settings")
def test_the_place_of_a_folder_may_move_and_a_mount_may_cut_times_off(tmp_path, monkeypatch):
    was = taken(of(""))
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        os.utime(file, (int(file.stat().st_mtime),) * 2)
    (moved := tmp_path / "elsewhere").mkdir()
    for name in ("pairs.jsonl", "many", "eval.json", "model"):
        (tmp_path / name).rename(moved / name)
    monkeypatch.chdir(moved)
    assert find_other(was, listings_in_reach(of(""))) is None


def test_inputs_that_are_gone_or_may_not_be_asked_for_tell_nothing(settings, monkeypatch):
    was = taken(settings)
    for name in (*FILES, *MODEL, "fsdp.yaml"):
        Path(name).unlink()
    assert listings_in_reach(settings) == {}
    assert find_other(was, {}) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert listings_in_reach(of("s3://nowhere/")) == {}


def test_a_model_that_was_the_hubs_and_is_a_folder_now_is_another(settings):
    was = taken(settings)
    del was["base_model"]
    assert (find_other(was, listings_in_reach(settings)) or "").startswith("base_model: ")


@pytest.mark.usefixtures("settings")
def test_no_byte_is_read(settings, monkeypatch):
    def refuse(*_):
        raise AssertionError("read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("hashlib.file_digest", refuse)
    monkeypatch.setattr("mnrl_job.data.inputs.sha256_of", refuse)
    assert find_other(taken(settings), listings_in_reach(settings)) is None


def test_objects_are_known_by_their_etags(uri, server):
    put(server, f"{uri}", FILES | MODEL)
    was = taken(of(f"{uri}/"))
    assert was.keys() == NAMES - {"accelerate_config"}
    put(server, uri, objects(server, uri))  # the same again, later
    assert find_other(was, listings_in_reach(of(f"{uri}/"))) is None
    put(server, uri, {"eval.json": b"[]"})
    assert (find_other(was, listings_in_reach(of(f"{uri}/"))) or "").startswith("eval/eval: its files were changed")
