"""The shape of `metrics.json`, schema version 1, and the JSON schema made of it: `docs/metrics.schema.json`."""

import sys
from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mnrl_job.evaluation.significance import Changes
from mnrl_job.runs.attempt_history import AttemptRecord
from mnrl_job.system.json_text import dumps
from mnrl_job.training.results import Mining

ByMetric = dict[str, float]


class RunFacts(TypedDict):
    id: str
    started_at: str
    finished_at: str
    attempts: list[AttemptRecord]


class Prompts(TypedDict):
    """What the model puts before each text; empty for nothing."""

    query: str
    document: str


class AssumedFacts(TypedDict):
    """What the base model's files leave open, and was decided; null or empty where they do not.

    `unused_prompts` are prompts it has that neither queries nor documents are read with.
    """

    pooling: str | None
    padding_token: str | None
    unused_prompts: list[str]


class Model(TypedDict):
    """`adapter_of` is the model that `base` was an adapter of, merged into it; null where it was none."""

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
    """`rows_used` are those a batch was made of; `MNRL_ROW_FILTER` does not take the `filtered`.

    Those `rejected` are counted by reason.
    """

    rows_read: int
    rows_used: int
    filtered: int
    rejected: dict[str, int]
    sources: list[Source]


class EvalData(TypedDict):
    """`own_documents` queries stand in the corpus themselves; `rejected` rows are counted by reason."""

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
    """The primary metric at a step of the training."""

    step: int
    value: float


class TrainingFacts(TypedDict):
    loss: str
    guide_model: str | None
    scale: float
    matryoshka_dims: list[int]
    hardness: str | None
    epochs: int
    steps: int
    global_batch_size: int
    batching: Literal["planned", "masked"]
    rows_digest: str
    negatives_per_anchor: int
    masked_per_anchor: float
    learning_rate: float
    precision: str
    activation_recompute: bool
    final_loss: float
    lora_rank: int | None
    trainable_parameters: int
    scores: list[StepScore]
    best_step: int | None
    hard_negatives: int
    hard_negative_mining: list[Mining]
    collapse: str | None


class Shorter(TypedDict):
    """Scores with embeddings cut to their first numbers."""

    before: ByMetric
    after: ByMetric


class EvaluationFacts(TypedDict):
    """One eval set, by metric. All but `before` and `bm25` are empty where nothing was trained."""

    before: ByMetric
    after: ByMetric
    delta: ByMetric
    confidence_interval: dict[str, tuple[float, float]]
    p_value: ByMetric
    wins_losses: dict[str, Changes]
    bm25: ByMetric | None
    dimensions: dict[str, Shorter]


class PrimaryMetric(TypedDict):
    """`saturated` says that the base model has the highest score already, so that nothing could show a gain."""

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


class ExportFacts(TypedDict):
    """The model in another format: `files` below `model/` with their bytes; differences are to the trained model.

    `tolerance` is null where a format is meant to differ. Seconds are those of a text on the processor of this machine.
    """

    backend: Literal["onnx", "openvino"]
    files: dict[str, int]
    bytes: int
    metrics: dict[str, ByMetric]
    max_difference: float
    tolerance: float | None
    min_cosine: float
    seconds_per_text: float
    pytorch_seconds_per_text: float | None
    packages: dict[str, str]


class Performance(TypedDict):
    """`seconds` are those of each step of the run."""

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
    """A run in numbers. `training`, `verification` and `data.train` are null where nothing was trained."""

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
    exports: dict[str, ExportFacts]
    performance: Performance
    environment: Environment


def as_json_schema() -> str:
    """The text of `docs/metrics.schema.json` (JSON Schema 2020-12). Readers should expect more keys than these."""
    schema: dict[str, Any] = TypeAdapter(Metrics).json_schema()
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dumps(dialect | schema, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(as_json_schema() + "\n")
