"""Results of workers, without torch, so that the supervisor can read them."""

from dataclasses import dataclass
from typing import Literal

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.embedding.model_facts import ModelFacts
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.training.results import TokenLengths, Training


@dataclass(frozen=True, slots=True)
class Verification:
    """The saved model, reloaded by another process, compared with the trained one in memory."""

    reloaded: bool
    embedding_dimension: int
    max_difference: float
    tolerance: float
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Export:
    """The model in another format: its `files` below `model/` with their bytes, and how it compares.

    `max_difference` is the largest difference in any number of the fixed texts' embeddings, `min_cosine` the least
    similarity of one, to those of the trained model; `tolerance` is None where a format is expected to differ.
    Seconds are per text on this machine's CPU, in this format and with PyTorch.
    """

    format: str
    backend: Literal["onnx", "openvino"]
    files: dict[str, int]
    evaluations: tuple[Evaluation, ...]
    max_difference: float
    tolerance: float | None
    min_cosine: float
    seconds_per_text: float
    pytorch_seconds_per_text: float
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """The result of training or evaluating, written by the first worker of each node."""

    model: ModelFacts
    before: tuple[Evaluation, ...]
    devices: tuple[str, ...]
    peak_memory_bytes: int
    after: tuple[Evaluation, ...] = ()
    training: Training | None = None
    lengths: TokenLengths | None = None


@dataclass(frozen=True, slots=True)
class TrialRun:
    """Measurements of a few training steps; `evaluation_seconds` are for one pass over all eval sets.

    All workers together compare a query with a document in `score_seconds`.
    """

    parameters: int
    trainable_parameters: int
    device: str
    torch: str
    peak_memory_bytes: int
    step_seconds: float
    evaluation_seconds: float
    seconds: float
    lengths: TokenLengths | None
    embedding_dimension: int
    score_seconds: float


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The tokens of the training pairs in plan order, and how long the texts are; None where input is not token ids."""

    tokens: TokenShards | None
    lengths: TokenLengths | None
