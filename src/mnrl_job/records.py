"""What steps hand to one another: frozen records, and their way through JSON files between processes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mnrl_job.json_text import dumps

Record = TypeVar("Record")

# No metric can be higher, so a model with this score before training cannot gain.
PERFECT_SCORE = 1.0


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row: `where` is `file:line`."""

    where: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What one source gave: `rows` from the `rows_read` in its files, of which `not_relevant` were judged to give none.

    `filtered` are those that `MNRL_ROW_FILTER` does not take. `sha256` covers the bytes of its files in order.
    `notes` are what its user should know of how it was read.
    """

    name: str
    uri: str
    files: int
    rows_read: int
    rows: int
    sha256: str
    columns: dict[str, str]
    ignored_columns: tuple[str, ...]
    not_relevant: int = 0
    filtered: int = 0
    weight: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """The training pairs as one Arrow file; `columns` are anchor, positive and, where any row has some, negatives.

    The negatives of a row are a list, which may be empty.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    rows_read: int
    rejected: dict[str, int]
    bad_rows: tuple[BadRow, ...]
    sources: tuple[SourceRecord, ...]

    @property
    def filtered(self) -> int:
        """How many rows `MNRL_ROW_FILTER` does not take."""
        return sum(source.filtered for source in self.sources)


@dataclass(frozen=True, slots=True)
class EvalSet:
    """An eval set as Arrow files in `folder`: queries, corpus, judgements.

    Of its queries `own_documents` stand in the corpus themselves. `rejected` counts rows left out, by reason.
    """

    name: str
    uri: str
    folder: Path
    queries: int
    documents: int
    judgements: int
    unjudged_queries: int
    sha256: str
    own_documents: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    bad_rows: tuple[BadRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows become batches: `labels`, an Arrow file with the groups of each row, and `plan`, a `.npy` of rows.

    Each of `epochs` begins at this step, counted from 0. `barred`, a `.npy`, tells of each row whether its positive is
    relevant to a query of an eval set, and so must not be mined as a negative.
    """

    labels: Path
    plan: Path
    mode: Literal["planned", "masked"]
    steps: int
    epochs: tuple[int, ...] = (0,)
    barred: Path | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. A failed one names the class of its error, which decides the exit code."""

    check: str
    status: Literal["passed", "warning", "failed"]
    detail: str
    remedy: str = ""
    kind: str = ""

    @property
    def message(self) -> str:
        return f"{self.check}: {self.detail}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker is to do. `settings` are the run's, as JSON values; `staging` holds what will be published.

    `inputs` are SHA-256 by input; all ranks, on all nodes, must have the same. `resume` is the folder of a checkpoint.
    `guide` is the folder or Hub id of the guide, empty where there is none.
    """

    settings: dict[str, Any]
    model: str
    scratch: Path
    staging: Path
    eval_sets: tuple[EvalSet, ...]
    inputs: dict[str, str]
    pairs: Pairs | None = None
    batching: Batching | None = None
    resume: Path | None = None
    guide: str = ""


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens of the texts of each column in a sample of rows: p50, p90, p99, p100, and the share that is cut."""

    rows: int
    max_seq_length: int | None
    columns: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class QueryResult:
    """How one query fared: `rank` (from 1) and `score` of its best-placed relevant document, the `top` documents."""

    query_id: str
    rank: int
    score: float
    metrics: dict[str, float]
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the queries of one eval set; the queries one by one stand in the file `results`.

    `dimensions` has the means with embeddings cut to so many leading numbers, by their number.
    """

    name: str
    metrics: dict[str, float]
    results: Path
    seconds: float
    dimensions: dict[str, dict[str, float]] = field(default_factory=dict)


class Changes(TypedDict):
    """How many queries got better, worse, or stayed."""

    won: int
    lost: int
    tied: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One eval set before and after: each metric's values, gain, interval and p-value. No `after`: evaluation only.

    `wins_losses` counts the queries that won, lost or tied; `bm25` what the words alone would find.
    `dimensions` has, for embeddings cut to so many numbers, each metric's values `before` and `after`.
    """

    name: str
    before: dict[str, float]
    after: dict[str, float] = field(default_factory=dict)
    delta: dict[str, float] = field(default_factory=dict)
    confidence_interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    p_value: dict[str, float] = field(default_factory=dict)
    wins_losses: dict[str, Changes] = field(default_factory=dict)
    bm25: dict[str, float] | None = None
    dimensions: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


Judged = TypeVar("Judged", EvalSet, Evaluation, Comparison)


def judged_by(name: str, some: Sequence[Judged]) -> Judged | None:
    """The eval set of this name, by which a run is judged, else the first; None where there are none."""
    return next((one for one in some if one.name == name), some[0] if some else None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run passed its gate: the rule in words, and what of it was not met."""

    passed: bool
    rule: str
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores on the eval sets."""

    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a training has spent up to some step, over all ranks and attempts.

    Of `negatives`, the other documents of a batch, summed over all queries, `masked` did not count.
    """

    tokens: int = 0
    padded_tokens: int = 0
    negatives: int = 0
    masked: int = 0
    seconds: float = 0.0
    seconds_waited: float = 0.0


@dataclass(frozen=True, slots=True)
class StepScore:
    """The primary metric of the model in training, at a step."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class StepScores:
    """The scores of a training, in order."""

    scores: tuple[StepScore, ...]


class Mining(TypedDict):
    """Hard negatives mined after a step: the share of those wanted that was found, similarities on average."""

    step: int
    found: float
    similarity: float
    positive_similarity: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Minings:
    """Those of a training, in order."""

    minings: tuple[Mining, ...]


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


@dataclass(frozen=True, slots=True)
class Assumed:
    """What was decided for a base model whose files leave it open; None or empty where they do not.

    `unused_prompts` are the names of prompts it has that neither queries nor documents are read with.
    """

    pooling: str | None = None
    padding_token: str | None = None
    unused_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`adapter_of` names the model that the base model was an adapter of, merged into it; None where it was none."""

    parameters: int
    embedding_dimension: int
    max_seq_length: int | None
    revision: str | None
    query_prompt: str
    document_prompt: str
    assumed: Assumed = Assumed()
    adapter_of: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The saved model, read back by a fresh process, against the trained one in memory."""

    reloaded: bool
    embedding_dimension: int
    max_difference: float
    tolerance: float
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Export:
    """The trained model in another format: its `files` below `model/` with their bytes, and what it is worth.

    `max_difference` is the largest in any number of the fixed texts' embeddings, `min_cosine` the least similarity of
    one, to what the trained model gave; `tolerance` is None where a format is meant to differ.
    Seconds are those of a text on this machine's CPU, in this format and as PyTorch computes it.
    """

    format: str
    backend: Literal["onnx", "openvino"]
    files: dict[str, int]
    evaluations: tuple[Evaluation, ...]
    max_difference: float
    tolerance: float | None
    min_cosine: float
    seconds_per_text: float
    pytorch_seconds_per_text: float | None
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Exports:
    """All formats asked for, in order."""

    exports: tuple[Export, ...]


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What the first worker of a node reports when all have finished."""

    model: ModelFacts
    before: tuple[Evaluation, ...]
    devices: tuple[str, ...]
    peak_memory_bytes: int
    after: tuple[Evaluation, ...] = ()
    training: Training | None = None
    lengths: TokenLengths | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A few training steps for the clock. `seconds` is all of it, `evaluation_seconds` one pass over all eval sets."""

    parameters: int
    trainable_parameters: int
    device: str
    torch: str
    peak_memory_bytes: int
    step_seconds: float
    evaluation_seconds: float
    seconds: float
    lengths: TokenLengths | None


def read_results(path: Path) -> list[QueryResult]:
    """The results a worker wrote, one query a line."""
    adapter = TypeAdapter(QueryResult)
    with path.open("rb") as handle:
        return [adapter.validate_json(line) for line in handle]


def write_record(path: Path, record: Any) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, dumps(asdict(record), default=str, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file between processes: a reader finds it whole or as it was. Nothing is flushed to the disk."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read back what `write_record` wrote."""
    return TypeAdapter(kind).validate_json(path.read_bytes())
