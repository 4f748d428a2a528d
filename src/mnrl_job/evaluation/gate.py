"""The gate: whether the trained model is good enough for the run to succeed."""

from collections.abc import Iterator
from dataclasses import dataclass

from mnrl_job.config.settings import NO_GATE
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison

ACCEPT = f"MNRL_MIN_GAIN={NO_GATE:g} accepts it"


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The thresholds of the gate, as in the settings of the same names.

    `primary` is the name of the primary eval set (empty for the first) and the metric.
    """

    primary: tuple[str, str]
    min_gain: float | None = None
    max_p_value: float | None = None
    guard_evals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether a run passed its gate, the rule in words, and the parts of it that failed."""

    passed: bool
    rule: str
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule in words, and why it failed; empty if it passed."""

    rule: str
    failure: str = ""


def evaluate_gate(config: GateConfig, comparisons: tuple[Comparison, ...], collapse: str | None = None) -> GateResult:
    """Check a trained model against the gate.

    Unless `min_gain` is set, the primary metric must not be significantly worse, and the embeddings must not have
    collapsed. With `max_p_value` a gain must be significant, and a loss of a guard eval set fails only if significant.

    Args:
        config: the thresholds.
        comparisons: each eval set before and after training; empty without eval data.
        collapse: what is wrong with the embeddings, in words; empty or None if nothing is.
    """
    name, metric = config.primary
    checks: list[_Check] = []
    if primary := judged_by(name, comparisons):
        checks += [_gain(config, primary, metric), *_significant_gain(config, primary, metric)]
    checks += _guards(config, comparisons, metric)
    if config.min_gain != NO_GATE:
        failure = f"the embeddings collapsed: {collapse} ({ACCEPT})"
        checks.append(_Check("the embeddings do not collapse", failure if collapse else ""))
    failed = tuple(check.failure for check in checks if check.failure)
    return GateResult(not failed, "; ".join(check.rule for check in checks) or "none", failed)


def _gain(config: GateConfig, primary: Comparison, metric: str) -> _Check:
    if config.min_gain is None:
        before, after, (low, high) = primary.before[metric], primary.after[metric], primary.confidence_interval[metric]
        failure = (
            f"{primary.name}.{metric} fell from {before:.4f} to {after:.4f}, and the 95 % interval of the change, "
            f"{low:+.4f} to {high:+.4f}, lies below 0 ({ACCEPT})"
        )
        return _Check(f"{primary.name}.{metric} does not fall significantly", failure if high < 0 else "")
    gain = primary.delta[metric]
    failure = f"{primary.name}.{metric} changed by {gain:+.4f}, MNRL_MIN_GAIN is {config.min_gain:g}"
    if primary.before[metric] >= PERFECT_SCORE:
        failure += f", and was {PERFECT_SCORE:g} before: this eval set cannot show a gain"
    return _Check(
        f"{primary.name}.{metric} rises by {config.min_gain:g} or more", failure if gain < config.min_gain else ""
    )


def _significant_gain(config: GateConfig, primary: Comparison, metric: str) -> Iterator[_Check]:
    if config.max_p_value is None:
        return
    gain, p_value = primary.delta[metric], primary.p_value[metric]
    failure = (
        f"{primary.name}.{metric} changed by {gain:+.4f} with a p-value of {p_value:.4f}, "
        f"MNRL_MAX_P_VALUE is {config.max_p_value:g}"
    )
    yield _Check(
        f"{primary.name}.{metric} rises with a p-value of {config.max_p_value:g} or less",
        failure if p_value > config.max_p_value or gain <= 0 else "",
    )


def _guards(config: GateConfig, comparisons: tuple[Comparison, ...], metric: str) -> Iterator[_Check]:
    for guard in (comparison for comparison in comparisons if comparison.name in config.guard_evals):
        fell = guard.delta[metric] < 0 and guard.p_value[metric] <= (config.max_p_value or 1)
        failure = f"{guard.name}.{metric} fell by {-guard.delta[metric]:.4f}, and MNRL_GUARD_EVALS guards it"
        yield _Check(f"{guard.name}.{metric} does not fall", failure if fell else "")
