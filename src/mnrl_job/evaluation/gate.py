"""The gate: whether the trained model is good enough for the run to succeed."""

from collections.abc import Iterator
from dataclasses import dataclass

from mnrl_job.config.evaluation_settings import GENERAL_SEARCH
from mnrl_job.config.settings import NO_GATE
from mnrl_job.evaluation.general_guard import MIN_BASE_SCORE, guard_metric
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.significance import Comparison

ACCEPT = f"MNRL_MIN_GAIN={NO_GATE:g} accepts it"
FORGETTING = "the model forgets: lower MNRL_WEIGHT_INTERPOLATION or MNRL_LEARNING_RATE, or train fewer steps"
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The thresholds of the gate, as in the settings of the same names.

    `primary` is the name of the primary eval set (empty for the first) and the metric.
    """

    primary: tuple[str, str]
    min_gain: float | None = None
    max_p_value: float | None = None
    guard_evals: tuple[str, ...] = ()
    max_guard_loss: float | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether a run passed its gate, the rule in words, the parts of it that failed, and what to warn of besides."""

    passed: bool
    rule: str
    failed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule in words, and why it failed; empty if it passed."""

    rule: str
    failure: str = ""


def evaluate_gate(config: GateConfig, comparisons: tuple[Comparison, ...], collapse: str | None = None) -> GateResult:
    """Check a trained model against the gate.

    Unless `min_gain` is set, the primary metric must not be significantly worse, and the embeddings must not have
    collapsed. With `max_p_value` a gain must be significant, and a loss of a guard eval set fails only if significant.
    With `max_guard_loss` the general guard must not fall by more, if the base model scores at least `MIN_BASE_SCORE` on
    it. Otherwise a significant fall is a warning.

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
    general_check, warnings = _general_guard(config, comparisons)
    checks += general_check
    if config.min_gain != NO_GATE:
        failure = f"the embeddings collapsed: {collapse} ({ACCEPT})"
        checks.append(_Check("the embeddings do not collapse", failure if collapse else ""))
    failed = tuple(check.failure for check in checks if check.failure)
    return GateResult(not failed, "; ".join(check.rule for check in checks) or "none", failed, warnings)


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


def _general_guard(
    config: GateConfig, comparisons: tuple[Comparison, ...]
) -> tuple[tuple[_Check, ...], tuple[str, ...]]:
    """The rule of the general guard, where it applies, and warnings."""
    guard = next((comparison for comparison in comparisons if comparison.name == GENERAL_SEARCH), None)
    if guard is None:
        return (), ()
    metric, limit = guard_metric(guard.before), config.max_guard_loss
    before, after, p_value = guard.before[metric], guard.after[metric], guard.p_value[metric]
    low, high = guard.confidence_interval[metric]
    fall = f"general search: {metric} fell from {before:.2f} to {after:.2f}"
    checks, warnings = [], []
    if limit is not None and before >= MIN_BASE_SCORE:
        fell_too_far = before - after > limit and p_value <= (config.max_p_value or 1)
        failure = f"{fall}, by {before - after:.4f}, MNRL_MAX_GUARD_LOSS is {limit:g}; {FORGETTING}"
        checks.append(_Check(f"{guard.name}.{metric} falls by {limit:g} at most", failure if fell_too_far else ""))
    elif limit is not None:
        warnings.append(
            f"general search: MNRL_MAX_GUARD_LOSS does not apply: {metric} of the base model is {before:.2f}, "
            f"below {MIN_BASE_SCORE:g}"
        )
    if after < before and p_value <= SIGNIFICANCE_LEVEL and not any(check.failure for check in checks):
        warnings.append(f"{fall} (95 % interval of the change {low:+.2f} to {high:+.2f}); {FORGETTING}")
    return tuple(checks), tuple(warnings)
