"""The verdict at the top of the page: better or worse, by how much, and whether that is significant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mnrl_job.report.page.formatting import ARROW, count, join_words, p_value, plain, signed
from mnrl_job.report.page.query_explorer import Explorer

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """`label` and `claim` form the headline, `detail` adds to it; `evidence` has the numbers, explained in
    `interpretation`.
    """

    tone: Literal["good", "bad", "open"]
    label: str
    claim: str
    evidence: str
    interpretation: str
    notes: tuple[str, ...]
    detail: str = ""


def reach_verdict(metrics: Mapping[str, Any], log: list[dict[str, Any]]) -> Verdict:
    """Assess the run by its primary metric, with warnings about other results and from the training log."""
    primary = metrics["primary_metric"]
    if primary is None:
        claim = "without an eval set it is unknown whether the model improved"
        return Verdict("open", "Not evaluated", claim, "", "Set MNRL_EVAL_DATA, or hold out some pairs.", ())
    name, metric = primary_eval_and_metric(metrics)
    queries = metrics["data"]["eval"][name]["queries"]
    if primary["after"] is None:
        claim, evidence = f"{metric} is {plain(primary['before'])}", f"on {name}, over {count(queries)} queries"
        return Verdict(
            "open", "Scored", claim, evidence, "Nothing was trained: these are the scores of the model as it is.", ()
        )
    evaluation, notes = metrics["evaluation"][name], tuple(_warnings(metrics, log, name))
    evidence = _evidence(evaluation, name, metric, queries)
    return _compare(evaluation, evidence, metric, primary["saturated"], notes)


def in_plain_words(verdict: Verdict, metrics: Mapping[str, Any], explorer: Explorer) -> Verdict:
    """The verdict with the numbers of queries that find a right answer, as its claim if they agree with it."""
    first, first_ten = (ARROW.join(map(count, found)) for found in (explorer.first, explorer.first_ten))
    claim = f"of {count(explorer.queries)} questions, {first} get a right answer first"
    detail = f"{first_ten} find one among the first ten."
    change, delta = explorer.first[-1] - explorer.first[0], metrics["primary_metric"]["delta"]
    if verdict.label == "Scored" or (delta and change * delta > 0):
        separator = ": " if explorer.compared else " "
        return replace(verdict, claim=claim, detail=detail, evidence=verdict.claim + separator + verdict.evidence)
    return replace(verdict, detail=f"{claim[0].upper()}{claim[1:]}, {detail}")


def primary_eval_and_metric(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the primary eval set and metric; empty without an eval set."""
    primary = metrics["primary_metric"]
    name, _, metric = primary["name"].rpartition(".") if primary else ("", "", "")
    return name, metric


def is_significant(evaluation: dict[str, Any], metric: str) -> bool:
    """Whether the confidence interval of a gain excludes zero and its p-value is below 0.05."""
    low, high = evaluation["confidence_interval"][metric]
    return bool((low > 0 or high < 0) and evaluation["p_value"][metric] < SIGNIFICANCE_LEVEL)


def _evidence(evaluation: dict[str, Any], name: str, metric: str, queries: int) -> str:
    low, high = evaluation["confidence_interval"][metric]
    return (
        f"{plain(evaluation['before'][metric])} → {plain(evaluation['after'][metric])} on {name}, 95 % interval "
        f"{signed(low)} to {signed(high)}, p = {p_value(evaluation['p_value'][metric])} over {count(queries)} queries"
    )


def _compare(
    evaluation: dict[str, Any], evidence: str, metric: str, saturated: bool, notes: tuple[str, ...]
) -> Verdict:
    delta = evaluation["delta"][metric]
    claim = (
        f"{metric} {'rose' if delta > 0 else 'fell'} by {plain(abs(delta))}" if delta else f"{metric} did not change"
    )
    if is_significant(evaluation, metric):
        side = "above" if delta > 0 else "below"
        interpretation = f"Significant: the interval lies entirely {side} zero, and the p-value is below 0.05."
        if delta > 0:
            return Verdict("good", "Better", claim, evidence, interpretation, notes)
        return Verdict("bad", "Worse", claim, evidence, interpretation, notes)
    if evaluation["confidence_interval"][metric][1] < 0:
        interpretation = "Borderline: the interval lies entirely below zero, but the p-value is not below 0.05."
        return Verdict("bad", "Worse", claim, evidence, interpretation, notes)
    if saturated:
        interpretation = "The base model already had the highest score. Use harder queries or a larger corpus."
        return Verdict(
            "open", "Cannot tell", f"{claim}: this eval set cannot show a gain", evidence, interpretation, notes
        )
    interpretation = "Not significant: it may be chance. More queries would tell."
    return Verdict("open", "Not proven" if delta else "No change", claim, evidence, interpretation, notes)


def _warnings(metrics: Mapping[str, Any], log: list[dict[str, Any]], primary: str) -> Iterator[str]:
    _, metric = primary_eval_and_metric(metrics)
    worse = [
        f"{name} ({signed(evaluation['delta'][metric])})"
        for name, evaluation in metrics["evaluation"].items()
        if name != primary and evaluation["delta"].get(metric, 0) < 0 and is_significant(evaluation, metric)
    ]
    if worse:
        yield f"{metric} fell significantly on {join_words(worse)}."
    if not metrics["gate"]["passed"]:
        yield f"The gate was not passed: {'; '.join(metrics['gate']['failed'])}."
    for line in log:
        if line.get("collapse"):
            suffix = "" if metrics["training"]["collapse"] else " They had not at the step whose weights were kept."
            yield f"The embeddings collapsed at step {line['step']:,}: {line['collapse']}.{suffix}"
            return
