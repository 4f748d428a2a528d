"""Better or not, by how much, sure or not: what the page begins with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mnrl_job.report.page.formatting import chance, count, plain, signed, words

SURE = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` and `claim` make the headline, `proof` the line below; `sure` says what to think of it in plain words."""

    tone: Literal["good", "bad", "open"]
    word: str
    claim: str
    proof: str
    sure: str
    notes: tuple[str, ...]


def verdict(content: Mapping[str, Any], log: list[dict[str, Any]]) -> Verdict:
    """Judge the run by its primary metric, and name what speaks against it.

    Args:
        content: that of `metrics.json`.
        log: the lines of `training_log.jsonl`.
    """
    primary = content["primary_metric"]
    if primary is None:
        claim = "there was no eval set, so nobody knows whether it got better"
        return Verdict("open", "Not evaluated", claim, "", "Give MNRL_EVAL_DATA, or hold some pairs out.", ())
    name, metric = judged(content)
    queries = content["data"]["eval"][name]["queries"]
    if primary["after"] is None:
        claim, proof = f"{metric} is {plain(primary['before'])}", f"on {name}, over {count(queries)} queries"
        return Verdict("open", "Scored", claim, proof, "Nothing was trained: one model, as it is.", ())
    one, notes = content["evaluation"][name], tuple(_warnings(content, log, name))
    return _compared(one, _proof(one, name, metric, queries), metric, primary["saturated"], notes)


def judged(content: Mapping[str, Any]) -> tuple[str, str]:
    """The eval set that a run is judged by, and the metric; empty where there is none."""
    primary = content["primary_metric"]
    name, _, metric = primary["name"].rpartition(".") if primary else ("", "", "")
    return name, metric


def gain_is_sure(one: dict[str, Any], metric: str) -> bool:
    """Whether the interval of a gain leaves out zero and chance is an unlikely cause."""
    low, high = one["confidence_interval"][metric]
    return bool((low > 0 or high < 0) and one["p_value"][metric] < SURE)


def _proof(one: dict[str, Any], name: str, metric: str, queries: int) -> str:
    low, high = one["confidence_interval"][metric]
    return (
        f"{plain(one['before'][metric])} → {plain(one['after'][metric])} on {name}, 95 % interval "
        f"{signed(low)} to {signed(high)}, p = {chance(one['p_value'][metric])} over {count(queries)} queries"
    )


def _compared(one: dict[str, Any], proof: str, metric: str, saturated: bool, notes: tuple[str, ...]) -> Verdict:
    delta = one["delta"][metric]
    moved = f"{metric} {'rose' if delta > 0 else 'fell'} by {plain(abs(delta))}" if delta else f"{metric} did not move"
    if gain_is_sure(one, metric):
        side = "above" if delta > 0 else "below"
        sure = f"Sure: the interval lies wholly {side} zero, and chance alone would hardly give as much."
        if delta > 0:
            return Verdict("good", "Better", moved, proof, sure, notes)
        return Verdict("bad", "Worse", moved, proof, sure, notes)
    if one["confidence_interval"][metric][1] < 0:
        sure = "Nearly sure: the interval lies wholly below zero, though with so few queries chance could give as much."
        return Verdict("bad", "Worse", moved, proof, sure, notes)
    if saturated:
        sure = "Before training nothing was left to gain. Harder queries, or a larger corpus, would tell."
        return Verdict("open", "Cannot tell", f"{moved}: this eval set cannot show a gain", proof, sure, notes)
    sure = "Not sure: chance alone could give as much. More queries would tell."
    return Verdict("open", "Not proven" if delta else "No change", moved, proof, sure, notes)


def _warnings(content: Mapping[str, Any], log: list[dict[str, Any]], judged_by: str) -> Iterator[str]:
    _, metric = judged(content)
    worse = [
        f"{name} ({signed(one['delta'][metric])})"
        for name, one in content["evaluation"].items()
        if name != judged_by and one["delta"].get(metric, 0) < 0 and gain_is_sure(one, metric)
    ]
    if worse:
        yield f"{metric} fell for sure on {words(worse)}."
    if not content["gate"]["passed"]:
        yield f"The gate was not passed: {'; '.join(content['gate']['failed'])}."
    for line in log:
        if line.get("collapse"):
            kept = "" if content["training"]["collapse"] else " They did not at the step whose weights were kept."
            yield f"The embeddings collapsed at step {line['step']:,}: {line['collapse']}.{kept}"
            return
