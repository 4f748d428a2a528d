"""Models that have learned nothing and texts that mean nothing, for checks of speed where no data is at hand."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

CUT = 256
# Of the package descriptions that other benchmarks train on: half have 43 words, one in ten more than 101.
MEDIAN_WORDS, SPREAD = 43, 0.67
QUERY_WORDS = 8
# all-MiniLM-L6-v2's and BERT's.
SHAPES = {
    "22M": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "110M": BertConfig(),
    "tiny": BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
}


def untrained(config: BertConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """A Sentence Transformers folder of this shape with random weights."""
    backbone = folder / "backbone"
    torch.manual_seed(0)
    BertModel(config).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    layers = [Transformer(str(backbone), max_seq_length=CUT), Pooling(config.hidden_size)]
    SentenceTransformer(modules=layers, device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


def pairs(count: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> list[tuple[str, str]]:
    """Queries of some words of their documents, which are as long as real ones, all different."""
    rng = np.random.default_rng(seed)
    words = np.array(sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii()))
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD, count), QUERY_WORDS, CUT).astype(int)
    documents = [words[rng.integers(0, len(words), length)] for length in lengths]
    return [(f"{' '.join(one[:QUERY_WORDS])} {row}", f"{' '.join(one)} {row}") for row, one in enumerate(documents)]


def write_pairs(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    """As lines of JSON."""
    path.write_text("".join(json.dumps({"anchor": a, "positive": p}) + "\n" for a, p in rows), encoding="utf-8")
    return path


def write_beir(folder: Path, rows: list[tuple[str, str]], queries: int) -> Path:
    """An eval set of the first so many queries over all documents, and the pairs as training data beside it."""
    (folder / "eval" / "qrels").mkdir(parents=True)
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"anchor": a, "positive": p}) + "\n" for a, p in rows)
    texts = {"queries": [a for a, _ in rows[:queries]], "corpus": [p for _, p in rows]}
    for name, column in texts.items():
        with gzip.open(folder / "eval" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as lines:
            for row, text in enumerate(column):
                lines.write(json.dumps({"_id": f"{name[0]}{row}", "text": text}) + "\n")
    judged = "".join(f"q{row}\tc{row}\t1\n" for row in range(queries))
    (folder / "eval" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return folder
