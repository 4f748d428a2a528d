"""What to do next, from what a training found."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from mnrl_job.report.page.formatting import count, percent, plain
from mnrl_job.report.page.verdict import is_significant, primary_eval_and_metric

FEW_PAIRS = 1000
EASY_BATCHES = 0.9
MAX_QUERIES = 100_000

# An action, the finding it follows from, and the section of the page that shows it.
NextStep = tuple[str, str, str]


def next_steps(metrics: Mapping[str, Any], audit: dict[str, Any], log: list[dict[str, Any]]) -> Iterator[NextStep]:
    bad = {
        "rejected": sum(audit["rejected"].values()),
        "also in an eval set": audit["leakage"]["rows"],
        "with a negative that is a positive elsewhere": audit["contradictions"]["negatives"],
    }
    if any(bad.values()):
        finding = ", ".join(f"{count(number)} {name}" for name, number in bad.items() if number)
        yield "Look at these rows", finding, "data"
    if metrics["primary_metric"]:
        yield from _evaluation(metrics)
    training, rows = metrics["training"], metrics["data"]["train"]["rows_used"]
    if rows < FEW_PAIRS:
        yield "Add training pairs", f"{count(rows)} are few", "data"
    accuracies = [line.get("in_batch_accuracy") or 0.0 for line in log[-max(1, len(log) // 10) :]]
    accuracy, size = sum(accuracies) / max(1, len(accuracies)), training["global_batch_size"]
    finding = f"at the end {percent(accuracy)} of the queries found their positive among {count(size)}"
    if accuracy >= EASY_BATCHES and not training["hard_negatives"]:
        yield "Mine hard negatives (MNRL_NUM_HARD_NEGATIVES)", finding, "embeddings"
    if accuracy >= EASY_BATCHES and min(rows // 10, audit["batches"]["largest_batch_without_duplicates"]) >= 2 * size:
        yield "Enlarge MNRL_BATCH_SIZE", finding, "embeddings"


def _evaluation(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    name, metric = primary_eval_and_metric(metrics)
    evaluation, queries = metrics["evaluation"][name], metrics["data"]["eval"][name]["queries"]
    gain, (low, high) = evaluation["delta"][metric], evaluation["confidence_interval"][metric]
    needed = ceil(queries * ((high - low) / 2 / gain) ** 2) if gain else 0
    if not is_significant(evaluation, metric) and queries < needed < MAX_QUERIES:
        finding = f"a change of {plain(abs(gain))} takes about {count(needed)} to prove, there are {count(queries)}"
        yield "Add eval queries", finding, "scores"
    if lost := evaluation["wins_losses"][metric]["lost"]:
        yield "Look at the queries that got worse", f"{count(lost)} of {count(queries)}", "queries"
