"""Every setting in one frozen, typed model.

The click options, the environment names, `env.example`, the docs table and the JSON schema are all made from the
fields below, so they cannot drift apart.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from mnrl_job.setting_types import (
    METRIC_CUTOFFS,
    RANKING_METRICS,
    Cutoffs,
    Dimensions,
    EvalSources,
    Every,
    ExportFormats,
    HardnessWeight,
    Interval,
    Names,
    NearDuplicates,
    NumNodes,
    Places,
    PrimaryMetric,
    Prompt,
    RankingPlaces,
    RowsToTake,
    Sources,
    Span,
    Time,
    Trackers,
)

PREFIX = "MNRL_"
# No settings: what a container image says of itself, for `metrics.json`.
IMAGE, GIT_SHA = "MNRL_JOB_IMAGE", "MNRL_JOB_GIT_SHA"
# The gain below which no metric can fall: as `min_gain` it asks for nothing.
NO_GATE = -1.0
PLACES = "comma separated; a file, folder or glob, local or s3://"
SOURCES = f"one or more of uri, name=uri or name:weight=uri, {PLACES}"
EVAL_SOURCES = f"one or more of uri or name=uri, {PLACES}"
METRIC = f"{'|'.join(RANKING_METRICS)}@k with a k of MNRL_METRIC_CUTOFFS, or NAME.metric"

# Former names that difflib would not match with the present ones.
RENAMED = {
    "eval_holdout": "holdout_ratio",
    "hard_negative_margin": "hard_negative_relative_margin",
    "mine_every": "mining_interval",
    "patience": "early_stopping_patience",
    "track": "report_to",
}
# Blanks at the ends of these belong to them.
KEEP_BLANKS = ("query_prompt", "document_prompt")


def _setting(default: Any, meaning: str, accepts: str, **limits: Any) -> Any:
    return Field(default, description=meaning, json_schema_extra={"accepts": accepts}, **limits)


class Settings(BaseModel):
    """The settings of one run. Field `batch_size` is `MNRL_BATCH_SIZE` in the environment, `--batch-size` as a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    train_data: Sources = _setting((), "the training pairs", SOURCES)
    eval_data: EvalSources = _setting((), "the eval sets; without one, training groups are held out", EVAL_SOURCES)
    base_model: str = _setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "the model to start from",
        "a Hub id (id@revision), a folder or an s3:// prefix",
        min_length=1,
    )
    output: str = _setting("", "the run is written to OUTPUT/RUN_ID/", "a folder or an s3:// prefix")
    run_id: str = _setting(
        "",
        "names the run; made from time and settings when empty",
        "letters, digits, '.', '_' and '-', at most 128",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$",
    )
    work_dir: str = _setting(
        "", "local scratch, where fetched inputs are found again; a temporary folder when empty", "a folder"
    )
    anchor_column: str = _setting("", "the column of anchors (queries); found by name when empty", "a column name")
    positive_column: str = _setting(
        "", "the column of positives (documents); found by name when empty", "a column name"
    )
    negative_columns: Names = _setting(
        (),
        "columns of hard negatives; negative, negative_1, … are found by name",
        "column names, comma separated",
    )
    row_filter: RowsToTake | None = _setting(
        None,
        "which training rows to take, by columns such as label or split; without it such a column must not vary",
        "column, operator (= != >= <= > <) and value, as in label>=1, several joined by 'and'; all takes every row",
    )
    max_bad_row_ratio: float = _setting(
        0.0,
        "share of unusable rows tolerated, of the training data and of each part of an eval set",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    near_duplicate_threshold: NearDuplicates = _setting(
        0.9,
        "share of common word pairs from which two documents count as the same text",
        "a number above 0.5 and up to 1, or off",
    )
    leakage_policy: Literal["remove", "fail", "keep"] = _setting(
        "remove", "what to do with training pairs that also stand in an eval set", "remove, fail or keep"
    )
    holdout_ratio: float = _setting(
        0.1, "share of the training groups held out when there is no eval data", "a number from 0 to 0.9", ge=0, le=0.9
    )
    epochs: int = _setting(1, "passes over the training data", "a whole number of at least 1", ge=1)
    max_steps: int | None = _setting(None, "stop after so many steps", "a whole number of at least 1", ge=1)
    batching: Literal["auto", "planned", "masked"] = _setting(
        "auto",
        "planned: duplicates never share a batch; masked: they may, and never count as negatives; auto: planned unless "
        "texts repeat too often to fill the batches",
        "auto, planned or masked",
    )
    batch_size: int = _setting(
        64,
        "the GLOBAL batch: pairs whose positives serve as one another's negatives, over all devices",
        "a whole number of at least 2",
        ge=2,
    )
    mini_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = _setting(
        "auto", "texts embedded at once on a device; for memory only", "auto or a whole number of at least 1"
    )
    gradient_checkpointing: bool = _setting(
        False, "compute each layer again for its gradient: less memory for long texts, slower", "true or false"
    )
    lora_rank: int | None = _setting(
        None,
        "train adapters of this rank beside the linear layers instead of the model's own weights (LoRA)",
        "a whole number of at least 1",
        ge=1,
    )
    loss: Literal["mnrl", "symmetric", "gte", "guided"] = _setting(
        "mnrl",
        "what a batch compares: queries with documents, also the reverse, or all with all; guided: without what a "
        "guide model takes for false negatives",
        "mnrl, symmetric, gte or guided",
    )
    guide_model: str = _setting(
        "",
        "the model that finds false negatives for MNRL_LOSS=guided",
        "a Hub id (id@revision), a folder or an s3:// prefix",
    )
    hardness: HardnessWeight | None = _setting(
        None,
        "weigh a negative more the more similar it is to the query: how much, and which negatives",
        "a number above 0 for all negatives, or in_batch_negatives:9, hard_negatives:5 or all_negatives:9",
    )
    num_hard_negatives: int = _setting(
        0,
        "hard negatives to mine for each pair before training, among the positives of the others",
        "a whole number from 0 to 100",
        ge=0,
        le=100,
    )
    hard_negative_range: RankingPlaces = _setting(
        Places(1, 100),
        "the places they are taken from, where the other documents are ranked by their similarity to the query",
        "first-last, as in 1-100",
    )
    hard_negative_relative_margin: float = _setting(
        0.05,
        "by which share of the positive's similarity they are less similar; what is nearer may be right, too",
        "a number from 0 and below 1",
        ge=0,
        lt=1,
    )
    mining_interval: Literal["run", "epoch"] = _setting(
        "run", "when they are mined: once before training, or anew before each epoch", "run or epoch"
    )
    matryoshka_dims: Dimensions = _setting(
        (),
        "train vectors that may be cut to so many leading numbers each (Matryoshka)",
        "whole numbers from large to small, comma separated, none above the model's dimension: 768,256,64",
    )
    learning_rate: float = _setting(2e-5, "peak learning rate of AdamW", "a number above 0 and up to 1", gt=0, le=1)
    warmup_ratio: float = _setting(
        0.1, "share of the steps the learning rate climbs", "a number from 0 to 1", ge=0, le=1
    )
    weight_decay: float = _setting(0.01, "weight decay of AdamW", "a number of at least 0", ge=0)
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = _setting(
        "linear", "how the learning rate falls after warm-up", "linear, cosine or constant_with_warmup"
    )
    scale: float = _setting(20.0, "multiplies the cosine similarity (1 / temperature)", "a number above 0", gt=0)
    query_prompt: Prompt | None = _setting(
        None, "what the model puts before each query (anchor); its own prompt when empty", "a text, as in 'query: '"
    )
    document_prompt: Prompt | None = _setting(
        None,
        "what the model puts before each document (positives, negatives, corpus); its own prompt when empty",
        "a text, as in 'passage: '",
    )
    max_seq_length: int | None = _setting(
        None, "tokens a text is cut at; the model's own when empty", "a whole number of at least 2", ge=2
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto", "arithmetic of the forward pass; weights stay fp32", "auto, fp32, bf16 or fp16"
    )
    checkpoint_interval: Interval = _setting(
        Every(seconds=600.0), "how often a checkpoint is saved", "steps (500) or a time (90s, 10m, 1h)"
    )
    grace_period: Time = _setting(
        Span(30.0),
        "from the request to stop until the end by force: terminationGracePeriodSeconds, or docker stop -t",
        "a time (30s, 5m)",
    )
    hang_timeout: Time = _setting(
        Span(600.0), "workers that all stand still for so long are stopped", "a time (90s, 10m, 1h)"
    )
    metric_cutoffs: Cutoffs = _setting(
        METRIC_CUTOFFS, "how many documents of a ranking each metric looks at", "whole numbers k, comma separated"
    )
    primary_metric: PrimaryMetric = _setting(
        "ndcg@10", "the metric the run is judged by", METRIC, validate_default=True
    )
    eval_interval: Interval | None = _setting(
        None,
        "how often the model is scored while it trains, by the primary metric; the best weights are then published",
        "steps (500) or a time (90s, 10m, 1h)",
    )
    early_stopping_patience: int | None = _setting(
        None,
        "training ends after so many scores in a row that were no better than the best (MNRL_EVAL_INTERVAL)",
        "a whole number of at least 1",
        ge=1,
    )
    min_gain: float | None = _setting(
        None,
        "the gate: how much the primary metric must rise; below it the run is kept, but is no success. When empty, it "
        "must not fall for sure, nor may embeddings collapse; -1 accepts any change, and a collapse",
        "a number from -1 to 1",
        ge=-1,
        le=1,
    )
    max_p_value: float | None = _setting(
        None,
        "the gate: how likely the gain may be chance; guard evals then fail only where a loss is as unlikely chance",
        "a number above 0 and up to 1",
        gt=0,
        le=1,
    )
    guard_evals: Names = _setting(
        (), "the gate: eval sets whose metric must not fall", "names of eval sets, comma separated"
    )
    export: ExportFormats = _setting(
        (),
        "formats to publish the trained model in, too, each reloaded, compared and scored (make install-export)",
        "onnx, openvino, int8 (ONNX in 8 bits), comma separated",
    )
    seed: int = _setting(42, "everything random comes from it", "a whole number from 0 to 4294967295", ge=0, lt=2**32)
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1)] = _setting(
        "auto", "workers on this machine: one per visible GPU, on a CPU 1", "auto or a whole number of at least 1"
    )
    min_gpus: int = _setting(
        0,
        "GPUs that each machine must show; with fewer (no driver, a lost GPU) it ends with 78, rather than use a CPU",
        "a whole number from 0",
        ge=0,
    )
    num_nodes: NumNodes | None = _setting(
        None,
        "machines that train together, MIN:MAX for an elastic run; when empty, what the scheduler says (PET_NNODES, "
        "SLURM_NNODES, …), else 1",
        "a whole number of at least 1, or MIN:MAX, as in 2:8",
    )
    node_rank: Annotated[int, Field(ge=0)] | None = _setting(
        None,
        "which of them this is; when empty, what the scheduler says (JOB_COMPLETION_INDEX, PET_NODE_RANK, "
        "SLURM_NODEID, …)",
        "a whole number from 0",
    )
    master_addr: str = _setting(
        "",
        "node 0, as the others reach it; when empty, what the scheduler says",
        "host or host:port (29500 when left out)",
    )
    join_timeout: Time = _setting(
        Span(1800.0),
        "how long to wait for the nodes of a run to join; an elastic run waits so long for MIN nodes",
        "a time (90s, 10m, 1h)",
    )
    node_timeout: Time = _setting(
        Span(30.0), "heartbeat timeout: a node that is silent for so long is lost", "a time (30s, 2m, 1h)"
    )
    group_secret: SecretStr = _setting(
        SecretStr(""), "signs what the nodes of a run tell one another; the same on all nodes", "a text"
    )
    accelerate_config: str | None = _setting(
        None, "an accelerate configuration file, for a model that workers hold in shares (FSDP2)", "a YAML file"
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = _setting(
        "auto", "how S3 requests name the bucket; most S3-likes need path", "auto, path or virtual"
    )
    log_format: Literal["auto", "text", "json"] = _setting(
        "auto", "text on a terminal, else JSON lines on stderr", "auto, text or json"
    )
    report_to: Trackers = _setting(
        (), "experiment trackers that are told of the run", "tensorboard, wandb, mlflow, comma separated"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.strip() if isinstance(value, str) and name not in KEEP_BLANKS else value
            for name, value in values.items()
        }

    @field_validator("early_stopping_patience")
    @classmethod
    def _is_tried(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("eval_interval", True) is None:
            raise ValueError("nothing is scored while it trains; set MNRL_EVAL_INTERVAL, too")
        return patience

    @field_validator("accelerate_config")
    @classmethod
    def _is_whole(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file and info.data.get("eval_interval") is not None:
            raise ValueError("a model that workers hold in shares cannot be scored while it trains: MNRL_EVAL_INTERVAL")
        if file and info.data.get("mining_interval") == "epoch":
            raise ValueError(
                "a model that workers hold in shares cannot mine while it trains: MNRL_MINING_INTERVAL=epoch"
            )
        return file

    @field_validator("hard_negative_range")
    @classmethod
    def _are_enough(cls, places: Places, info: ValidationInfo) -> Places:
        wanted = info.data.get("num_hard_negatives", 0)
        if wanted > places.last - places.first + 1:
            raise ValueError(f"fewer places than MNRL_NUM_HARD_NEGATIVES={wanted}")
        return places

    @property
    def mines_each_epoch(self) -> bool:
        """Whether hard negatives change while it trains."""
        return self.num_hard_negatives > 0 and self.mining_interval == "epoch"

    @property
    def judged(self) -> tuple[str, str]:
        """The eval set that `MNRL_PRIMARY_METRIC` names, empty for the first, and the metric."""
        name, _, metric = self.primary_metric.rpartition(".")
        return name, metric

    @field_validator("primary_metric")
    @classmethod
    def _is_measured(cls, metric: str, info: ValidationInfo) -> str:
        measured = info.data.get("metric_cutoffs", ())
        if measured and int(metric.rpartition("@")[2]) not in measured:
            raise ValueError(f"MNRL_METRIC_CUTOFFS has {','.join(map(str, measured))}")
        return metric


REQUIRED = {
    "train": ("train_data", "output"),
    "check": ("train_data", "output"),
    "evaluate": ("eval_data", "output"),
    "verify": (),
    "settings": (),
}


def env_name(field: str) -> str:
    """`batch_size` -> `MNRL_BATCH_SIZE`."""
    return PREFIX + field.upper()


def flag_name(field: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + field.replace("_", "-")


def as_typed(value: object) -> str:
    """A setting's value as one would type it; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def is_secret_setting(field: str) -> bool:
    """Whether the value must not be shown."""
    return Settings.model_fields[field].annotation is SecretStr


def accepts(field: str) -> str:
    """What a setting takes, in words."""
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra["accepts"]) if isinstance(extra, dict) else ""
