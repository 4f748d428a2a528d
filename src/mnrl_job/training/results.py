"""What a training reports, without torch, so that the supervisor can read it."""

from dataclasses import dataclass

from typing_extensions import TypedDict


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens of the texts of each column in a sample of rows: p50, p90, p99, p100, and the share that is cut."""

    rows: int
    max_seq_length: int | None
    columns: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class StepScore:
    """The primary metric of the model in training, at a step."""

    step: int
    value: float


class Mining(TypedDict):
    """Hard negatives mined after a step: the share of those wanted that was found, similarities on average."""

    step: int
    found: float
    similarity: float
    positive_similarity: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Training:
    """What training did. Tokens are counted over all ranks; `padded_tokens` is what the model had to read.

    `seconds_waited` were spent waiting for batches; `activation_recompute` says that not all activations of a batch
    were kept.

    `negatives_per_anchor` are the other documents of a batch, on average; `masked_per_anchor` of them did not count.
    `trainable_parameters` is how many numbers were trained; with LoRA few of the model's. `scores` were taken while it
    trained; the weights are then those of `best_step`. `collapse` says what is wrong with the embeddings that these
    weights give; empty where nothing is, None where it is too early to say.
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
    hard_negative_mining: tuple[Mining, ...] = ()
    collapse: str | None = None
