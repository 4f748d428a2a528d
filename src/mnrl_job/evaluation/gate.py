"""The gate: whether the trained model is good enough to be called a success."""

from collections.abc import Iterator
from dataclasses import dataclass

from mnrl_job.config.settings import NO_GATE, Settings
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison

ACCEPT = f"MNRL_MIN_GAIN={NO_GATE:g} accepts it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run passed its gate: the rule in words, and what of it was not met."""

    passed: bool
    rule: str
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is asked for, and what was not met of it; empty where it was."""

    told: str
    failure: str = ""


def evaluate_gate(settings: Settings, comparisons: tuple[Comparison, ...], collapse: str | None = None) -> Verdict:
    """Hold a trained model against the rules.

    Unless `MNRL_MIN_GAIN` says otherwise, it must not lose for sure, nor may its embeddings have collapsed. With
    `MNRL_MAX_P_VALUE` a gain that is more likely chance does not count, and neither does such a loss of a guard.

    Args:
        settings: the run's.
        comparisons: each eval set before and after; none where there are no eval data.
        collapse: what is wrong with the embeddings, in words.
    """
    name, metric = settings.primary_eval
    rules: list[_Rule] = []
    if judged := judged_by(name, comparisons):
        rules += [_gain(settings, judged, metric), *_certain_gain(settings, judged, metric)]
    rules += _guards(settings, comparisons, metric)
    if settings.min_gain != NO_GATE:
        failure = f"the embeddings collapsed: {collapse} ({ACCEPT})"
        rules.append(_Rule("the embeddings do not collapse", failure if collapse else ""))
    failed = tuple(rule.failure for rule in rules if rule.failure)
    return Verdict(not failed, "; ".join(rule.told for rule in rules) or "none", failed)


def _gain(settings: Settings, judged: Comparison, metric: str) -> _Rule:
    """The gain that is asked for; where none is, at least no loss that the 95 % interval makes sure."""
    if settings.min_gain is None:
        before, after, (low, high) = judged.before[metric], judged.after[metric], judged.confidence_interval[metric]
        failure = (
            f"{judged.name}.{metric} fell from {before:.4f} to {after:.4f}, and the 95 % interval of the change, "
            f"{low:+.4f} to {high:+.4f}, lies below 0 ({ACCEPT})"
        )
        return _Rule(f"{judged.name}.{metric} does not fall for sure", failure if high < 0 else "")
    gain = judged.delta[metric]
    failure = f"{judged.name}.{metric} changed by {gain:+.4f}, MNRL_MIN_GAIN is {settings.min_gain:g}"
    if judged.before[metric] >= PERFECT_SCORE:
        failure += f", and was {PERFECT_SCORE:g} before: this eval set cannot show a gain"
    return _Rule(
        f"{judged.name}.{metric} rises by {settings.min_gain:g} or more", failure if gain < settings.min_gain else ""
    )


def _certain_gain(settings: Settings, judged: Comparison, metric: str) -> Iterator[_Rule]:
    """A gain that is unlikely to be chance, where that is asked for."""
    if settings.max_p_value is None:
        return
    gain, p_value = judged.delta[metric], judged.p_value[metric]
    failure = (
        f"{judged.name}.{metric} changed by {gain:+.4f} with a p-value of {p_value:.4f}, "
        f"MNRL_MAX_P_VALUE is {settings.max_p_value:g}"
    )
    yield _Rule(
        f"{judged.name}.{metric} rises with a p-value of {settings.max_p_value:g} or less",
        failure if p_value > settings.max_p_value or gain <= 0 else "",
    )


def _guards(settings: Settings, comparisons: tuple[Comparison, ...], metric: str) -> Iterator[_Rule]:
    """Eval sets that must not get worse."""
    for guard in (one for one in comparisons if one.name in settings.guard_evals):
        fell = guard.delta[metric] < 0 and guard.p_value[metric] <= (settings.max_p_value or 1)
        failure = f"{guard.name}.{metric} fell by {-guard.delta[metric]:.4f}, and MNRL_GUARD_EVALS guards it"
        yield _Rule(f"{guard.name}.{metric} does not fall", failure if fell else "")
