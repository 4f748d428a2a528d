"""The gate: whether the trained model is good enough to be called a success."""

from mnrl_job.records import Comparison, Verdict, judged_by
from mnrl_job.settings import Settings


def judge(settings: Settings, comparisons: tuple[Comparison, ...]) -> Verdict:
    """Hold a trained model against the rules that were set. Without any, every model passes.

    With `MNRL_MAX_P_VALUE` a gain that is more likely chance does not count, and neither does such a loss of a guard.
    """
    name, metric = settings.judged
    judged = judged_by(name, comparisons)
    rules, failed = [], []
    if judged and settings.min_gain is not None:
        gain = judged.delta[metric]
        rules.append(f"{judged.name}.{metric} rises by {settings.min_gain:g} or more")
        if gain < settings.min_gain:
            failed.append(f"{judged.name}.{metric} changed by {gain:+.4f}, MNRL_MIN_GAIN is {settings.min_gain:g}")
    if judged and settings.max_p_value is not None:
        p_value = judged.p_value[metric]
        rules.append(f"{judged.name}.{metric} rises with a p-value of {settings.max_p_value:g} or less")
        if p_value > settings.max_p_value or judged.delta[metric] <= 0:
            failed.append(
                f"{judged.name}.{metric} changed by {judged.delta[metric]:+.4f} with a p-value of {p_value:.4f}, "
                f"MNRL_MAX_P_VALUE is {settings.max_p_value:g}"
            )
    for guard in (one for one in comparisons if one.name in settings.guard_evals):
        rules.append(f"{guard.name}.{metric} does not fall")
        if guard.delta[metric] < 0 and guard.p_value[metric] <= (settings.max_p_value or 1):
            failed.append(f"{guard.name}.{metric} fell by {-guard.delta[metric]:.4f}, and MNRL_GUARD_EVALS guards it")
    return Verdict(not failed, "; ".join(rules) or "none", tuple(failed))
