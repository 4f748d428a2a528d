"""Small real data and a tiny real model, which most tests work on."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema

from tests.program import ROOT

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


def read_metrics(run: Path) -> dict[str, Any]:
    """The `metrics.json` of a run, which must be as its published schema says."""
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads((ROOT / "docs" / "metrics.schema.json").read_text(encoding="utf-8")))
    return content


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
