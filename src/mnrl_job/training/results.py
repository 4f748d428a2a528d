"""Results of a training, without torch, so that the supervisor can read them."""

from dataclasses import dataclass

from typing_extensions import TypedDict


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

    Attributes:
        steps: steps trained.
        rows_used: distinct rows trained on.
        rows_digest: digest of the rows in order, see `data_order_digest`.
        final_loss: the last loss logged.
        negatives_per_anchor: other documents of a batch, on average.
        masked_per_anchor: how many of them did not count as negatives.
        precision: of the forward pass.
        seconds: of training, without evaluation and mining.
        seconds_waited: of these, waiting for batches.
        tokens: read without padding, over all ranks.
        padded_tokens: read with padding.
        activation_recompute: whether activations of some chunks were recomputed.
        trainable_parameters: numbers trained; with LoRA a small part of the model's.
        scores: of the model during training.
        best_step: the step whose weights were restored.
        hard_negative_mining: one for each round.
        collapse: why the embeddings of the final weights have collapsed; empty if not, None if it is too early to say.
    """

    steps: int
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
