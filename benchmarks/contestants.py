"""Those that training.py times: ours, the stock recipe, and the library alone, each in a process of its own.

    python benchmarks/contestants.py {limit,evaluate,start} MODEL DATA [EVAL]

is what the library alone does; training.py calls it. The last line that is printed is JSON.
"""

import argparse
import gzip
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

BATCH = 64
# That of the stock recipe; comparisons are of the same training.
LEARNING_RATE = 2e-5
CUT = 256
CHUNK_TOKENS = 1024
GIB = 2**30
BF16 = ("amx_bf16", "avx512_bf16")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What the contestants share. They run in `folder`, away from any .env file, on the CPU unless told otherwise."""

    data: Path
    stock: Path
    model: str
    folder: Path
    rows: int
    seeds: tuple[int, ...]
    stock_seeds: tuple[int, ...]
    on_gpu: bool = False


def ours(contest: Contest, command: str = "train", **settings: str | int) -> Facts:
    """`mnrl-job` with these settings over the ones that all share; what its metrics.json says."""
    runs = contest.folder / "runs"
    name = f"run-{len(list(runs.glob('*')))}"
    shared: dict[str, str | int] = {"base_model": contest.model, "output": str(runs), "run_id": name}
    shared |= {"eval_data": f"eval={contest.data / 'eval'}", "max_seq_length": CUT, "log_format": "json"}
    shared |= {"learning_rate": LEARNING_RATE, "weight_interpolation": "off", "general_guard": "off"}
    if command == "train":
        shared |= {"train_data": str(pairs(contest)), "batch_size": BATCH}
    chosen = {f"MNRL_{key.upper()}": str(value) for key, value in (shared | settings).items()}
    _, facts = run([str(Path(sys.executable).with_name("mnrl-job")), command], contest, chosen)
    return facts | read_metrics(json.loads((runs / name / "metrics.json").read_text(encoding="utf-8")))


def read_metrics(metrics: Facts) -> Facts:
    performance, training, scores = metrics["performance"], metrics["training"], metrics["evaluation"]["eval"]
    seconds = performance["seconds"]
    facts = {"eval_seconds": seconds["evaluate_before"], "ndcg@10_before": round(scores["before"]["ndcg@10"], 4)}
    facts |= {"peak_gib": round(performance["peak_memory_bytes"] / GIB, 2)}
    if training:
        facts |= {"pairs_per_second": performance["pairs_per_second"], "train_seconds": seconds["train"]}
        facts |= {"ndcg@10_after": round(scores["after"]["ndcg@10"], 4), "steps": training["steps"]}
        facts |= {"precision": training.get("precision")}
        facts |= {key: performance.get(key) for key in ("padding_ratio", "data_wait_share")}
        facts |= {"rows_used": metrics["data"]["train"]["rows_used"], "final_loss": round(training["final_loss"], 4)}
    return facts | {"seconds": seconds}


def stock(contest: Contest, seed: int, *replaced: tuple[str, str], batch: int = BATCH) -> Facts:
    """A copy of the stock recipe with another seed, and with texts replaced."""
    recipe = replace(contest.stock.read_text(encoding="utf-8"), r"\bseed=\d+", f"seed={seed}")
    for pattern, text in replaced:
        recipe = replace(recipe, pattern, text)
    script = contest.folder / "recipe.py"
    script.write_text(recipe, encoding="utf-8")
    command = [sys.executable, str(script), "--model", contest.model, "--train", str(pairs(contest))]
    command += ["--eval", str(contest.data / "eval"), "--batch-size", str(batch), "--output", "stock"]
    printed, facts = run(command, contest)
    names = {"peak_rss_gib": "peak_gib"}
    kept = ("pairs_per_second", "train_seconds", "eval_seconds", "ndcg@10_before", "ndcg@10_after", "peak_rss_gib")
    return facts | {names.get(key, key): printed[key] for key in kept}


def replace(recipe: str, pattern: str, text: str) -> str:
    changed, times = re.subn(pattern, text, recipe)
    if times != 1:
        raise SystemExit(f"the stock recipe has {pattern} {times} times, not once")
    return changed


def library(contest: Contest, part: str, *files: Path) -> Facts:
    command = [sys.executable, str(Path(__file__).resolve()), part, contest.model, *map(str, files)]
    printed, facts = run(command, contest)
    return facts | printed


def run(command: list[str], contest: Contest, settings: dict[str, str] | None = None) -> tuple[Facts, Facts]:
    """Run one contestant; its last line where that is JSON, and what could be seen from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MNRL_")}
    devices = {} if contest.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    environment = kept | devices | {"HF_HUB_OFFLINE": "1"} | (settings or {})
    stolen, began = elsewhere(), time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, cwd=contest.folder, env=environment, **pipes) as process,
        watched(process.pid) as peak,
    ):
        output, errors = process.communicate()
    took = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-3000:]}")
    facts = {"wall_seconds": round(took, 2), "tree_peak_gib": round(peak[0] / GIB, 2)}
    facts |= {"cores_busy_elsewhere": round((elsewhere() - stolen) / took, 2)}
    last = output.strip().rpartition("\n")[2]
    return json.loads(last) if last.startswith("{") else {}, facts


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """While inside, ask five times a second how much memory a process and its children hold together; its peak."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], sum(held(pid)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def held(pid: int) -> Iterator[int]:
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            yield process.memory_info().rss
    except psutil.NoSuchProcess:
        return


def elsewhere() -> float:
    """Seconds of processor time that went to others than this process and those it has waited for."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy - sum(one.ru_utime + one.ru_stime for one in used)


def pairs(contest: Contest) -> Path:
    """A file with the first rows of the data."""
    path = contest.folder / f"first-{contest.rows}.jsonl"
    if not path.exists():
        lines = read_lines(contest.data / "train.jsonl.gz")
        path.write_text("".join(line for line, _ in zip(lines, range(contest.rows), strict=False)), encoding="utf-8")
    return path


def read_lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from lines


def read_beir(folder: Path) -> tuple[dict[str, set[str]], dict[str, str], dict[str, str]]:
    """The relevant documents of each query, the queries, the documents."""
    relevant: dict[str, set[str]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            relevant.setdefault(query, set()).add(document)
    texts = [map(json.loads, read_lines(folder / f"{name}.jsonl.gz")) for name in ("queries", "corpus")]
    queries, corpus = ({row["_id"]: row["text"] for row in rows} for rows in texts)
    return relevant, queries, corpus


# What the library does alone, in the process that training.py starts.


def limit(model_path: str, data: Path) -> Facts:
    """Forward and backward over all texts without padding, and an optimizer step for every 64 pairs."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_path, device="cpu").train()
    rows = read_rows(data)
    texts = [row[column] for row in rows for column in ("anchor", "positive")]
    chunks = packed_chunks(model.tokenizer(texts, truncation=True, max_length=CUT)["input_ids"])
    tokens = sum(len(chunk) * len(chunk[0]) for chunk in chunks)
    weights = torch.randn(model.get_embedding_dimension(), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    bf16 = any(torch.cpu.get_capabilities().get(name) for name in BF16)

    def step(share: list[list[list[int]]]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for ids in map(torch.tensor, share):
                vectors = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
                with torch.autocast("cpu", enabled=False):
                    (vectors.float() * weights).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(chunks[:1])  # what only the first step costs is not the limit
    shares = list(steps_of(chunks, tokens * BATCH / len(rows)))
    began = time.perf_counter()
    for share in shares:
        step(share)
    took = time.perf_counter() - began
    facts = {"pairs_per_second": round(len(rows) / took, 2), "train_seconds": round(took, 2), "steps": len(shares)}
    return facts | {"precision": "bf16" if bf16 else "fp32", "tokens": tokens, "chunks": len(chunks)}


def packed_chunks(token_ids: list[list[int]], chunk_tokens: int = CHUNK_TOKENS) -> list[list[list[int]]]:
    """All tokens in one row, cut into texts of one length: that at which attention costs what it costs for theirs."""
    stream = [one for ids in token_ids for one in ids]
    length = round(sum(len(ids) ** 2 for ids in token_ids) / len(stream))
    texts = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    at_once = max(1, chunk_tokens // length)
    return [texts[start : start + at_once] for start in range(0, len(texts), at_once)]


def steps_of(chunks: list[list[list[int]]], tokens: float) -> Iterator[list[list[list[int]]]]:
    """Cut the chunks into steps of about so many tokens."""
    read, steps, share = 0, 0, []
    for chunk in chunks:
        share.append(chunk)
        read += len(chunk) * len(chunk[0])
        if read >= (steps + 1) * tokens * 0.999:
            yield share
            steps, share = int(read / tokens), []
    if share:
        yield share


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def evaluate(model_path: str, data: Path) -> Facts:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant, queries, corpus = read_beir(data)
    model = SentenceTransformer(model_path)
    evaluator = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False)
    began = time.perf_counter()
    score = evaluator(model)["cosine_ndcg@10"]
    return {"eval_seconds": round(time.perf_counter() - began, 3), "ndcg@10_before": round(float(score), 4)}


def start(model_path: str, data: Path, eval_file: Path) -> Facts:
    """The same job, written with the library: score, train, score again, save, load again, embed a text."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    asked = json.loads(eval_file.read_text(encoding="utf-8"))
    relevant = {query: set(documents) for query, documents in asked["relevant_docs"].items()}
    evaluator = InformationRetrievalEvaluator(asked["queries"], asked["corpus"], relevant, write_csv=False)
    rows = read_rows(data)
    model = SentenceTransformer(model_path)
    before = evaluator(model)["cosine_ndcg@10"]
    arguments = SentenceTransformerTrainingArguments(
        output_dir="plain", num_train_epochs=1, per_device_train_batch_size=8, learning_rate=2e-5, save_strategy="no"
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss).train()
    after = evaluator(model)["cosine_ndcg@10"]
    model.save_pretrained("plain/model")
    shape = SentenceTransformer("plain/model").encode([rows[0]["anchor"]]).shape
    return {"ndcg@10_before": float(before), "ndcg@10_after": float(after), "shape": list(shape)}


def main() -> None:
    parts: dict[str, Callable[..., Facts]] = {"limit": limit, "evaluate": evaluate, "start": start}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("model")
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    sys.stdout.write(json.dumps(parts[options.part](options.model, *options.files)) + "\n")


if __name__ == "__main__":
    main()
