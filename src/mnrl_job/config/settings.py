"""Every setting in one frozen, typed model.

The click options, the environment names, `env.example`, the docs table and the JSON schema are all made from the
fields below, so they cannot drift apart.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from mnrl_job.config.setting_types import (
    METRIC_CUTOFFS,
    RANKING_METRICS,
    Cutoffs,
    Dimensions,
    Duration,
    EvalSources,
    ExportFormats,
    HardnessWeight,
    Interval,
    IntervalSetting,
    Names,
    NearDuplicates,
    NumNodes,
    PrimaryMetric,
    Prompt,
    RankingPlaces,
    RankRange,
    RowsToTake,
    Sources,
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
METRIC = f"{'|'.join(RANKING_METRICS)}@k with k from MNRL_METRIC_CUTOFFS, or NAME.metric for an eval set"

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

    train_data: Sources = _setting((), "training pairs", SOURCES)
    eval_data: EvalSources = _setting(
        (), "eval sets; if empty, part of the training data is held out (MNRL_HOLDOUT_RATIO)", EVAL_SOURCES
    )
    base_model: str = _setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "model to fine-tune",
        "a Hub id (id@revision), a folder or an s3:// prefix",
        min_length=1,
    )
    output: str = _setting("", "where to write the run, as OUTPUT/RUN_ID/", "a folder or an s3:// prefix")
    run_id: str = _setting(
        "",
        "name of the run; the same name resumes it; generated from time and settings if empty",
        "letters, digits, '.', '_' and '-', at most 128",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$",
    )
    work_dir: str = _setting(
        "", "local scratch, where later attempts find fetched inputs again; a temporary folder if empty", "a folder"
    )
    anchor_column: str = _setting("", "column of the anchors (queries); detected by name if empty", "a column name")
    positive_column: str = _setting(
        "", "column of the positives (documents); detected by name if empty", "a column name"
    )
    negative_columns: Names = _setting(
        (),
        "columns of hard negatives; negative, negative_1, … are detected by name",
        "column names, comma separated",
    )
    row_filter: RowsToTake | None = _setting(
        None,
        "filter for training rows; required if a column such as label or split varies",
        "conditions such as label>=1 (operators = != >= <= > <) joined by 'and', or all for every row",
    )
    max_bad_row_ratio: float = _setting(
        0.0,
        "fraction of unusable rows tolerated in the training data and in each part of an eval set",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    near_duplicate_threshold: NearDuplicates = _setting(
        0.9,
        "Jaccard similarity of word pairs from which two documents count as duplicates",
        "a number above 0.5 and up to 1, or off",
    )
    leakage_policy: Literal["remove", "fail", "keep"] = _setting(
        "remove", "what to do with training pairs that also occur in an eval set", "remove, fail or keep"
    )
    holdout_ratio: float = _setting(
        0.1, "fraction of the training data held out if there is no eval data", "a number from 0 to 0.9", ge=0, le=0.9
    )
    epochs: int = _setting(1, "passes over the training data", "an integer of at least 1", ge=1)
    max_steps: int | None = _setting(None, "stop after this many steps", "an integer of at least 1", ge=1)
    batching: Literal["auto", "planned", "masked"] = _setting(
        "auto",
        "planned: duplicates never share a batch; masked: they may, but are not used as negatives; auto: "
        "planned, unless texts repeat too often to fill the batches",
        "auto, planned or masked",
    )
    batch_size: int = _setting(
        64,
        "global batch size over all devices; the pairs of a batch use one another's positives as negatives",
        "an integer of at least 2",
        ge=2,
    )
    mini_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = _setting(
        "auto", "texts embedded at once per device; affects memory, not the result", "auto or an integer of at least 1"
    )
    gradient_checkpointing: bool = _setting(
        False, "recompute activations in the backward pass: less memory for long texts, but slower", "true or false"
    )
    lora_rank: int | None = _setting(
        None,
        "train LoRA adapters of this rank on the linear layers instead of the model's own weights",
        "an integer of at least 1",
        ge=1,
    )
    loss: Literal["mnrl", "symmetric", "gte", "guided"] = _setting(
        "mnrl",
        "mnrl: query to documents; symmetric: both directions; gte: all texts of a batch against all; guided: "
        "GISTEmbed, a guide model masks false negatives",
        "mnrl, symmetric, gte or guided",
    )
    guide_model: str = _setting(
        "",
        "model that finds false negatives for MNRL_LOSS=guided",
        "a Hub id (id@revision), a folder or an s3:// prefix",
    )
    hardness: HardnessWeight | None = _setting(
        None,
        "weight negatives by their similarity to the query: which negatives, and how strongly",
        "a number above 0 for all negatives, or in_batch_negatives:9, hard_negatives:5 or all_negatives:9",
    )
    num_hard_negatives: int = _setting(
        0,
        "hard negatives to mine for each pair, from the positives of other pairs",
        "an integer from 0 to 100",
        ge=0,
        le=100,
    )
    hard_negative_range: RankingPlaces = _setting(
        RankRange(1, 100),
        "ranks to take them from, with the other documents ranked by similarity to the query",
        "FIRST-LAST, as in 1-100",
    )
    hard_negative_relative_margin: float = _setting(
        0.05,
        "relative margin below the positive's score; excludes likely false negatives",
        "a number of at least 0 and below 1",
        ge=0,
        lt=1,
    )
    mining_interval: Literal["run", "epoch"] = _setting(
        "run", "mine once before training (run), or again before each epoch (epoch)", "run or epoch"
    )
    matryoshka_dims: Dimensions = _setting(
        (),
        "train embeddings that can be truncated to these dimensions (Matryoshka)",
        "integers in descending order, comma separated, none above the model's dimension: 768,256,64",
    )
    learning_rate: float = _setting(2e-5, "peak learning rate of AdamW", "a number above 0 and up to 1", gt=0, le=1)
    warmup_ratio: float = _setting(0.1, "fraction of steps used for warm-up", "a number from 0 to 1", ge=0, le=1)
    weight_decay: float = _setting(0.01, "weight decay of AdamW", "a number of at least 0", ge=0)
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = _setting(
        "linear", "learning rate schedule after warm-up", "linear, cosine or constant_with_warmup"
    )
    scale: float = _setting(20.0, "factor applied to the cosine similarity (1 / temperature)", "a number above 0", gt=0)
    query_prompt: Prompt | None = _setting(
        None, "prompt prepended to each query (anchor); the model's own if empty", "text, as in 'query: '"
    )
    document_prompt: Prompt | None = _setting(
        None,
        "prompt prepended to each document (positives, negatives, corpus); the model's own if empty",
        "text, as in 'passage: '",
    )
    max_seq_length: int | None = _setting(
        None,
        "maximum number of tokens, longer texts are truncated; the model's own limit if empty",
        "an integer of at least 2",
        ge=2,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting(
        "auto", "precision of the forward pass; weights stay in fp32", "auto, fp32, bf16 or fp16"
    )
    checkpoint_interval: IntervalSetting = _setting(
        Interval(seconds=600.0), "how often to save a checkpoint", "steps (500) or a time (90s, 10m, 1h)"
    )
    grace_period: Time = _setting(
        Duration(30.0),
        "time between SIGTERM and SIGKILL (terminationGracePeriodSeconds, docker stop -t)",
        "a time (30s, 5m)",
    )
    hang_timeout: Time = _setting(
        Duration(600.0), "abort when no worker makes progress for this long", "a time (90s, 10m, 1h)"
    )
    metric_cutoffs: Cutoffs = _setting(
        METRIC_CUTOFFS, "cutoffs k at which the metrics are computed", "integers, comma separated"
    )
    primary_metric: PrimaryMetric = _setting(
        "ndcg@10",
        "metric for the gate, early stopping and the choice of the best weights",
        METRIC,
        validate_default=True,
    )
    eval_interval: IntervalSetting | None = _setting(
        None,
        "how often to evaluate the primary metric during training; the best weights are published",
        "steps (500) or a time (90s, 10m, 1h)",
    )
    early_stopping_patience: int | None = _setting(
        None,
        "stop after this many evaluations without improvement; requires MNRL_EVAL_INTERVAL",
        "an integer of at least 1",
        ge=1,
    )
    min_gain: float | None = _setting(
        None,
        "gate: minimum gain of the primary metric; a run below it is kept but not marked a success. If empty, "
        "the gate fails on a significant loss or collapsed embeddings; -1 accepts even these",
        "a number from -1 to 1",
        ge=-1,
        le=1,
    )
    max_p_value: float | None = _setting(
        None,
        "gate: maximum p-value of the gain, and of a loss that fails a guard eval",
        "a number above 0 and up to 1",
        gt=0,
        le=1,
    )
    guard_evals: Names = _setting(
        (), "gate: eval sets whose score must not fall", "names of eval sets, comma separated"
    )
    export: ExportFormats = _setting(
        (),
        "formats to export the trained model to; each is reloaded, compared and scored (make install-export)",
        "onnx, openvino, int8 (ONNX in 8 bits), comma separated",
    )
    seed: int = _setting(42, "random seed", "an integer from 0 to 4294967295", ge=0, lt=2**32)
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1)] = _setting(
        "auto", "workers on this machine; auto: one per visible GPU, or 1 on a CPU", "auto or an integer of at least 1"
    )
    min_gpus: int = _setting(
        0,
        "GPUs required on each machine; with fewer the run fails (exit 78) instead of using a CPU",
        "an integer of at least 0",
        ge=0,
    )
    num_nodes: NumNodes | None = _setting(
        None,
        "number of nodes, MIN:MAX for an elastic run; if empty, taken from the scheduler (PET_NNODES, "
        "SLURM_NNODES, …), else 1",
        "an integer of at least 1, or MIN:MAX, as in 2:8",
    )
    node_rank: Annotated[int, Field(ge=0)] | None = _setting(
        None,
        "rank of this node; if empty, taken from the scheduler (JOB_COMPLETION_INDEX, PET_NODE_RANK, SLURM_NODEID, …)",
        "an integer of at least 0",
    )
    master_addr: str = _setting(
        "",
        "address of node 0; if empty, taken from the scheduler",
        "host or host:port (default port 29500)",
    )
    join_timeout: Time = _setting(
        Duration(1800.0),
        "how long to wait for all nodes to join, or for MIN nodes of an elastic run",
        "a time (90s, 10m, 1h)",
    )
    node_timeout: Time = _setting(Duration(30.0), "heartbeat timeout for a node", "a time (30s, 2m, 1h)")
    group_secret: SecretStr = _setting(SecretStr(""), "shared secret that signs messages between nodes", "text")
    accelerate_config: str | None = _setting(
        None, "accelerate configuration file for a sharded model (FSDP2)", "a YAML file"
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = _setting(
        "auto", "bucket addressing of S3 requests; most S3-compatible stores need path", "auto, path or virtual"
    )
    log_format: Literal["auto", "text", "json"] = _setting(
        "auto", "format of the log on stderr; auto: text on a terminal, else JSON lines", "auto, text or json"
    )
    report_to: Trackers = _setting(
        (), "experiment trackers to report to", "tensorboard, wandb, mlflow, comma separated"
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
            raise ValueError("requires MNRL_EVAL_INTERVAL")
        return patience

    @field_validator("accelerate_config")
    @classmethod
    def _is_whole(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file and info.data.get("eval_interval") is not None:
            raise ValueError("a sharded model does not support MNRL_EVAL_INTERVAL")
        if file and info.data.get("mining_interval") == "epoch":
            raise ValueError("a sharded model does not support MNRL_MINING_INTERVAL=epoch")
        return file

    @field_validator("hard_negative_range")
    @classmethod
    def _are_enough(cls, places: RankRange, info: ValidationInfo) -> RankRange:
        wanted = info.data.get("num_hard_negatives", 0)
        if wanted > places.last - places.first + 1:
            raise ValueError(f"fewer ranks than MNRL_NUM_HARD_NEGATIVES={wanted}")
        return places

    @property
    def mines_every_epoch(self) -> bool:
        """Whether hard negatives change while it trains."""
        return self.num_hard_negatives > 0 and self.mining_interval == "epoch"

    @property
    def primary_eval(self) -> tuple[str, str]:
        """The eval set that `MNRL_PRIMARY_METRIC` names, empty for the first, and the metric."""
        name, _, metric = self.primary_metric.rpartition(".")
        return name, metric

    @field_validator("primary_metric")
    @classmethod
    def _is_measured(cls, metric: str, info: ValidationInfo) -> str:
        measured = info.data.get("metric_cutoffs", ())
        if measured and int(metric.rpartition("@")[2]) not in measured:
            raise ValueError(f"its cutoff is not in MNRL_METRIC_CUTOFFS={','.join(map(str, measured))}")
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
