"""Settings of metrics, early stopping and the gate."""

from typing import Literal

from pydantic import BaseModel, ValidationInfo, field_validator

from mnrl_job.config.setting_types import (
    METRIC_CUTOFFS,
    RANKING_METRICS,
    Cutoffs,
    IntervalSetting,
    Names,
    PrimaryMetric,
    setting,
)

# The name of the bundled eval set that `MNRL_GENERAL_GUARD` adds.
GENERAL_SEARCH = "general-search"
METRIC = f"{'|'.join(RANKING_METRICS)}@k with k from MNRL_METRIC_CUTOFFS, or NAME.metric for an eval set"


class EvaluationSettings(BaseModel):
    """How the model is evaluated, and when a run is a success."""

    metric_cutoffs: Cutoffs = setting(
        METRIC_CUTOFFS, "cutoffs k at which the metrics are computed", "integers, comma separated"
    )
    primary_metric: PrimaryMetric = setting(
        "ndcg@10",
        "metric for the gate, early stopping and the choice of the best weights",
        METRIC,
        validate_default=True,
    )
    eval_interval: IntervalSetting | None = setting(
        None,
        "how often to evaluate the primary metric during training; the best weights are published",
        "steps (500) or a time (90s, 10m, 1h)",
    )
    early_stopping_patience: int | None = setting(
        None,
        "stop after this many evaluations without improvement; requires MNRL_EVAL_INTERVAL",
        "an integer of at least 1",
        ge=1,
    )
    min_gain: float | None = setting(
        None,
        "gate: minimum gain of the primary metric; a run below it is kept but not marked a success. If empty, "
        "the gate fails on a significant loss or collapsed embeddings; -1 accepts even these",
        "a number from -1 to 1",
        ge=-1,
        le=1,
    )
    max_p_value: float | None = setting(
        None,
        "gate: maximum p-value of the gain, and of a loss that fails a guard eval",
        "a number above 0 and up to 1",
        gt=0,
        le=1,
    )
    guard_evals: Names = setting((), "gate: eval sets whose score must not fall", "names of eval sets, comma separated")
    general_guard: Literal["on", "off"] = setting(
        "on",
        "score a bundled set of general search before and after training, to show what the model forgets",
        "on or off",
    )
    max_guard_loss: float | None = setting(
        None,
        "gate: maximum loss of ndcg@10 on the bundled set of general search; applies only if the base model scores 0.5 "
        "or more on it",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )

    @field_validator("primary_metric")
    @classmethod
    def _has_known_cutoff(cls, metric: str, info: ValidationInfo) -> str:
        cutoffs = info.data.get("metric_cutoffs", ())
        if cutoffs and int(metric.rpartition("@")[2]) not in cutoffs:
            raise ValueError(f"its cutoff is not in MNRL_METRIC_CUTOFFS={','.join(map(str, cutoffs))}")
        return metric

    @field_validator("early_stopping_patience")
    @classmethod
    def _has_eval_interval(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("eval_interval", True) is None:
            raise ValueError("requires MNRL_EVAL_INTERVAL")
        return patience

    @field_validator("max_guard_loss")
    @classmethod
    def _has_general_guard(cls, loss: float | None, info: ValidationInfo) -> float | None:
        if loss is not None and info.data.get("general_guard") == "off":
            raise ValueError("requires MNRL_GENERAL_GUARD=on")
        return loss

    @property
    def primary_eval(self) -> tuple[str, str]:
        """The eval set that `MNRL_PRIMARY_METRIC` names, empty for the first, and the metric."""
        name, _, metric = self.primary_metric.rpartition(".")
        return name, metric
