"""Results of a training, without torch, so that the supervisor can read them."""

from dataclasses import dataclass

from typing_extensions import TypedDict

from mnrl_job.evaluation.weight_selection import InterpolationPoint


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Token lengths of each column in a sample of rows: p50, p90, p99, p100, and the fraction truncated."""

    rows: int
    max_seq_length: int | None
    columns: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class StepScore:
    """The primary metric at a step of training."""

    step: int
    value: float


class MiningRound(TypedDict):
    """Hard negatives mined after a step: `found` is the fraction of the wanted ones, similarities are means."""

    step: int
    found: float
    similarity: float
    positive_similarity: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Training:
    """The result of a training.

    `rows_used` are distinct; `rows_digest` is of the rows in order, see `data_order_digest`. Negatives are the other
    documents of a batch, on average; those masked did not count. `seconds` are without evaluation and mining; in
    `seconds_waited` of them the trainer waited for batches. Tokens are over all ranks. With `activation_recompute`
    activations of some chunks were recomputed. The weights of `best_step` were restored. `collapse` is why the
    embeddings of the final weights have collapsed; empty if not, None if it is too early to say. The fraction
    `weight_interpolation` of the trained weights is published, selected by the `interpolation_points`, if any.
    """

    steps: int
    learning_rate: float
    rows_used: int
    rows_digest: str
    final_loss: float
    negatives_per_anchor: int
    masked_per_anchor: float
    precision: str
    seconds: float
    seconds_waited: float
    tokens: int
    padded_tokens: int
    activation_recompute: bool
    trainable_parameters: int
    scores: tuple[StepScore, ...] = ()
    best_step: int | None = None
    hard_negative_mining: tuple[MiningRound, ...] = ()
    collapse: str | None = None
    weight_interpolation: float = 1.0
    interpolation_points: tuple[InterpolationPoint, ...] = ()
