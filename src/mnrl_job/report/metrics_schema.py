"""Schema version 1 of `metrics.json`, and its JSON schema `docs/metrics.schema.json`."""

import sys
from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mnrl_job.evaluation.significance import WinsLosses
from mnrl_job.runs.attempt_history import AttemptRecord
from mnrl_job.system.json_text import dumps
from mnrl_job.training.results import MiningRound

ByMetric = dict[str, float]


class RunFacts(TypedDict):
    id: str
    started_at: str
    finished_at: str
    attempts: list[AttemptRecord]


class Prompts(TypedDict):
    """Prompts before each text; empty for none."""

    query: str
    document: str


class AssumedFacts(TypedDict):
    """What was assumed where the files of the base model are incomplete; otherwise null or empty.

    `unused_prompts` are prompts of the base model used for neither queries nor documents.
    """

    pooling: str | None
    padding_token: str | None
    unused_prompts: list[str]


class Model(TypedDict):
    """`adapter_of` is the model into which `base`, an adapter, was merged; null if it was none."""

    base: str
    revision: str | None
    parameters: int
    embedding_dimension: int
    max_seq_length: int | None
    prompts: Prompts
    adapter_of: str | None
    assumed: AssumedFacts


class Source(TypedDict):
    name: str
    uri: str
    rows: int
    sha256: str


class TrainData(TypedDict):
    """`rows_used` are in batches; `filtered` are excluded by `MNRL_ROW_FILTER`; `rejected` are counted by reason."""

    rows_read: int
    rows_used: int
    filtered: int
    rejected: dict[str, int]
    sources: list[Source]


class EvalData(TypedDict):
    """`own_documents` are queries that are in the corpus; `rejected` rows are counted by reason."""

    queries: int
    documents: int
    unjudged_queries: int
    own_documents: int
    rejected: dict[str, int]
    sha256: str


class Data(TypedDict):
    train: TrainData | None
    eval: dict[str, EvalData]


class StepScore(TypedDict):
    """The primary metric at a training step."""

    step: int
    value: float


class TrainingSettings(TypedDict):
    """The settings of the training, as reported."""

    loss: str
    guide_model: str | None
    scale: float
    matryoshka_dims: list[int]
    hardness: str | None
    epochs: int
    global_batch_size: int
    lora_rank: int | None
    hard_negatives: int


class InterpolationPoint(TypedDict):
    """Scores with a fraction `alpha` of the trained weights, on texts that are not reported."""

    alpha: float
    selection: float
    general_search: float | None
    within_noise: bool


class TrainingFacts(TrainingSettings):
    learning_rate: float
    weight_interpolation: float
    interpolation_points: list[InterpolationPoint]
    steps: int
    rows_digest: str
    negatives_per_anchor: int
    masked_per_anchor: float
    precision: str
    activation_recompute: bool
    final_loss: float
    trainable_parameters: int
    scores: list[StepScore]
    best_step: int | None
    hard_negative_mining: list[MiningRound]
    collapse: str | None


class TruncatedMetrics(TypedDict):
    """Metrics with truncated embeddings."""

    before: ByMetric
    after: ByMetric


class EvaluationFacts(TypedDict):
    """One eval set, by metric. All but `before` and `bm25` are empty without training."""

    before: ByMetric
    after: ByMetric
    delta: ByMetric
    confidence_interval: dict[str, tuple[float, float]]
    p_value: ByMetric
    wins_losses: dict[str, WinsLosses]
    bm25: ByMetric | None
    dimensions: dict[str, TruncatedMetrics]


class PrimaryMetric(TypedDict):
    """`saturated`: the base model already has the highest score, so that no gain is possible."""

    name: str
    before: float
    after: float | None
    delta: float | None
    saturated: bool


class Gate(TypedDict):
    passed: bool
    rule: str
    failed: list[str]


class VerificationFacts(TypedDict):
    reloaded: bool
    embedding_dimension: int
    max_difference: float
    tolerance: float
    shape: tuple[int, int]


class Performance(TypedDict):
    """`seconds` has the duration of each phase of the run."""

    pairs_per_second: float | None
    tokens_per_second: float | None
    padding_ratio: float | None
    data_wait_share: float | None
    peak_memory_bytes: int
    seconds: dict[str, float]


class Environment(TypedDict):
    packages: dict[str, str]
    python: str
    platform: str
    devices: list[str]
    image: str | None
    git_sha: str | None


class Metrics(TypedDict):
    """Metrics of a run. `training`, `verification` and `data.train` are null without training."""

    schema_version: Literal[1]
    status: Literal["succeeded", "gate"]
    run: RunFacts
    model: Model
    data: Data
    training: TrainingFacts | None
    evaluation: dict[str, EvaluationFacts]
    primary_metric: PrimaryMetric | None
    gate: Gate
    verification: VerificationFacts | None
    performance: Performance
    environment: Environment


def as_json_schema() -> str:
    """The text of `docs/metrics.schema.json` (JSON Schema 2020-12). Readers must accept additional keys."""
    schema: dict[str, Any] = TypeAdapter(Metrics).json_schema()
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dumps(dialect | schema, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(as_json_schema() + "\n")
