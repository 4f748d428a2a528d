"""A model that cannot be loaded: the exit code tells who is at fault, as a Hub on this machine answers."""

import errno
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import torch

from mnrl_job.embedding import loading
from mnrl_job.embedding.load_errors import explain
from mnrl_job.errors import DataError, DeniedError, EnvironmentFailure, JobError, NotFound, StorageError, by_kind
from tests.embedding.folders import copied, with_json, with_weights, without
from tests.program import clean_environment

# By the model's name: the status, and the Hub's own code. A status of 0 hangs up.
ANSWERS = {
    "busy": (503, ""),
    "limited": (429, ""),
    "gone": (0, ""),
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "forbidden": (403, ""),
    "wrong-token": (401, ""),
    "missing": (404, "RepoNotFound"),
    "revision": (404, "RevisionNotFound"),
}
# The client waits longer before each of its six tries; here it does not.
LOAD_EACH = """
import json, sys, time
time.sleep = lambda _: None
from mnrl_job.embedding.loading import load
from mnrl_job.errors import JobError
for name in sys.argv[1:]:
    try:
        load(f"owner/{name}", "MNRL_BASE_MODEL")
    except JobError as error:
        print(json.dumps([name, error.kind, str(error)]), flush=True)
"""


def raised(error, cause=None):
    """As libraries raise it: while another was handled."""
    try:
        try:
            raise cause or error
        except type(cause or error):
            if cause is None:
                raise
            raise error  # noqa: B904 - libraries do so
    except Exception as caught:
        return caught


class Hub(BaseHTTPRequestHandler):
    def answer(self):
        status, code = next((told for name, told in ANSWERS.items() if f"/{name}" in self.path), (404, ""))
        if status:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_):
        pass

    do_GET = do_HEAD = answer  # noqa: N815 - http.server's names


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """The error of each name, by one process, since it imports for seconds."""
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    environment = clean_environment(
        HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
        HF_HOME=str(tmp_path_factory.mktemp("home")),
        HF_HUB_OFFLINE="0",
        ACCELERATE_USE_CPU="1",
    )
    command = [sys.executable, "-c", LOAD_EACH, *ANSWERS]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        hub.shutdown()
        hub.server_close()
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(told) == len(ANSWERS), done.stderr
    return {name: by_kind(kind, message) for name, kind, message in told}


@pytest.mark.parametrize("name", ["busy", "limited", "gone"])
def test_a_hub_that_is_busy_or_cannot_be_reached_is_storage_that_a_retry_may_help(endings, name):
    error = endings[name]
    assert (type(error), error.code, error.retry_helps) == (StorageError, 69, True)
    assert str(error).startswith(f"MNRL_BASE_MODEL: owner/{name} ")
    assert "retry later" in str(error)


def test_a_hub_that_does_not_answer_in_time_is_storage_too():
    error = explain(raised(OSError("it is no model"), httpx2.ReadTimeout("")), "owner/name", "MNRL_BASE_MODEL", False)
    assert type(error) is StorageError
    assert "(ReadTimeout)" in str(error)


@pytest.mark.parametrize("name", ["gated", "private", "forbidden", "wrong-token"])
def test_a_model_that_may_not_be_read_is_denied_with_what_to_set(endings, name):
    error = endings[name]
    assert (type(error), error.code, error.retry_helps) == (DeniedError, 77, False)
    assert f" {ANSWERS[name][0]}, " in str(error)
    assert "HF_TOKEN" in str(error)


@pytest.mark.parametrize("name", ["missing", "revision"])
def test_a_model_that_the_hub_does_not_have_is_missing(endings, name):
    assert type(endings[name]) is NotFound
    assert f"MNRL_BASE_MODEL: owner/{name} " in str(endings[name])


@pytest.mark.parametrize(
    "cause", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device (os error 28)")]
)
def test_a_full_cache_is_an_environment_failure(cause):
    error = explain(raised(OSError("it is no model"), cause), "owner/name", "MNRL_BASE_MODEL", False)
    assert (type(error), error.code) == (EnvironmentFailure, 78)
    assert "HF_HOME" in str(error)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), DeniedError),
        (OSError(errno.EIO, "x"), StorageError),
    ],
)
def test_errors_of_the_operating_system_are_not_reported_as_damage(cause, kind):
    assert type(explain(raised(ValueError("it is no model"), cause), "folder", "MNRL_BASE_MODEL", True)) is kind


@pytest.mark.parametrize(
    "fault", [torch.AcceleratorError("CUDA error: unspecified"), RuntimeError("CUDA error: ECC"), MemoryError()]
)
def test_a_fault_of_the_device_is_not_blamed_on_the_folder(tiny_model, monkeypatch, fault):
    monkeypatch.setattr(loading, "SentenceTransformer", lambda *_, **__: (_ for _ in ()).throw(fault))
    with pytest.raises(type(fault)):
        loading.load(str(tiny_model), "MNRL_BASE_MODEL")


def test_an_exception_without_message_is_named(tiny_model, monkeypatch):
    monkeypatch.setattr(loading, "SentenceTransformer", lambda *_, **__: (_ for _ in ()).throw(AssertionError()))
    with pytest.raises(DataError, match=f"^MNRL_BASE_MODEL: {tiny_model} .*AssertionError.*damaged"):
        loading.load(str(tiny_model), "MNRL_BASE_MODEL")


def refusal(folder):
    with pytest.raises(JobError) as caught:
        loading.load(str(folder), "MNRL_BASE_MODEL")
    error = caught.value
    assert str(error).startswith(f"MNRL_BASE_MODEL: {folder}")
    assert "damaged" not in str(error)
    assert "\n" not in str(error)
    assert not error.retry_helps
    return error


@pytest.mark.parametrize("with_code", [True, False])
def test_a_kind_of_model_that_needs_its_own_code_is_refused_and_the_code_not_run(tiny_model, tmp_path, with_code):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / "config.json", model_type="own_bert")
    if with_code:
        with_json(folder / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
        (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path)!r}, 'ran').touch()\n")
    error = refusal(folder)
    assert error.code == 65
    assert "custom code" in str(error)
    assert not (tmp_path / "ran").exists()


def test_a_module_from_elsewhere_is_code_of_its_own_too(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_pooling.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "own_pooling.py").write_text(f"from pathlib import Path\nPath({str(tmp_path)!r}, 'ran').touch()\n")
    assert "custom code" in str(refusal(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_a_git_lfs_pointer_is_refused(tiny_model, tmp_path, name):
    folder = copied(tiny_model, tmp_path / "m")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    error = refusal(folder)
    assert error.code == 65
    assert f"{name} is a Git LFS pointer" in str(error)


@pytest.mark.parametrize(
    ("cause", "package"),
    [
        (ModuleNotFoundError("No module named 'einops'", name="einops"), "einops"),
        (ImportError("\nT5Tokenizer requires the SentencePiece library but it was not found"), "SentencePiece"),
        (
            ImportError("Using `bitsandbytes` 4-bit quantization requires `bitsandbytes`: pip install it"),
            "bitsandbytes",
        ),
        (ImportError("Loading a PEFT model requires installing the `peft` package."), "peft"),
    ],
)
def test_a_missing_package_is_named(cause, package):
    error = explain(raised(ValueError("it is no model"), cause), "folder", "MNRL_BASE_MODEL", True)
    assert (type(error), error.code) == (EnvironmentFailure, 78)
    assert package in str(error)
    assert "\n" not in str(error)


def test_a_tokenizer_that_needs_a_package_says_which(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    with_json(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="mecab")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(map(str, range(99))))
    error = refusal(folder)
    assert error.code == 78
    assert "fugashi" in str(error)


def test_a_tokenizer_that_is_no_json_cannot_be_read(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    (folder / "tokenizer.json").write_text("{")
    assert "no tokenizer files" in str(refusal(folder))


def test_a_pickle_of_more_than_weights_is_not_run(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.LayerNorm.bias": Path("/")}, folder / "pytorch_model.bin")
    error = refusal(folder)
    assert error.code == 65
    assert "safetensors" in str(error)


def test_a_truncated_file_is_reported_as_damage(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(DataError, match=f"^MNRL_BASE_MODEL: {folder} .*damaged"):
        loading.load(str(folder), "MNRL_BASE_MODEL")


@pytest.mark.parametrize("part", ["layer.1.", "model.safetensors"])
def test_errors_name_the_uri_not_the_local_copy(tiny_model, tmp_path, part):
    folder = with_weights(copied(tiny_model, tmp_path / "copies" / "m"), without(part))
    if part == "model.safetensors":
        (folder / part).write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        loading.load(str(folder), "MNRL_BASE_MODEL", "s3://bucket/m")
    assert str(caught.value).startswith("MNRL_BASE_MODEL: s3://bucket/m")
    assert str(tmp_path) not in str(caught.value)
