"""Settings of batches, loss, optimizer and model."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from mnrl_job.config.setting_types import (
    Dimensions,
    HardnessSetting,
    Prompt,
    RankRange,
    RankRangeSetting,
    WeightFraction,
    setting,
)


class TrainingSettings(BaseModel):
    """How the model is trained."""

    epochs: int = setting(1, "passes over the training data", "an integer of at least 1", ge=1)
    max_steps: int | None = setting(None, "stop after this many steps", "an integer of at least 1", ge=1)
    batch_size: int = setting(
        64,
        "global batch size over all devices; the pairs of a batch use one another's positives as negatives",
        "an integer of at least 2",
        ge=2,
    )
    mini_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto", "texts embedded at once per device; affects memory, not the result", "auto or an integer of at least 1"
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory for long texts, but slower", "true or false"
    )
    lora_rank: int | None = setting(
        None,
        "train LoRA adapters of this rank on the linear layers instead of the model's own weights",
        "an integer of at least 1",
        ge=1,
    )
    loss: Literal["mnrl", "symmetric", "gte", "guided"] = setting(
        "mnrl",
        "mnrl: query to documents; symmetric: both directions; gte: all texts of a batch against all; guided: "
        "GISTEmbed, a guide model masks false negatives",
        "mnrl, symmetric, gte or guided",
    )
    guide_model: str = setting(
        "",
        "model that finds false negatives for MNRL_LOSS=guided",
        "a Hub id (id@revision), a folder or an s3:// prefix",
    )
    hardness: HardnessSetting | None = setting(
        None,
        "weight negatives by their similarity to the query: which negatives, and how strongly",
        "a number above 0 for all negatives, or in_batch_negatives:9, hard_negatives:5 or all_negatives:9",
    )
    num_hard_negatives: int = setting(
        0,
        "hard negatives to mine for each pair, from the positives of other pairs",
        "an integer from 0 to 100",
        ge=0,
        le=100,
    )
    hard_negative_range: RankRangeSetting = setting(
        RankRange(1, 100),
        "ranks to take them from, with the other documents ranked by similarity to the query",
        "FIRST-LAST, as in 1-100",
    )
    hard_negative_relative_margin: float = setting(
        0.05,
        "relative margin below the positive's score; excludes likely false negatives",
        "a number of at least 0 and below 1",
        ge=0,
        lt=1,
    )
    mining_interval: Literal["run", "epoch"] = setting(
        "run", "mine once before training (run), or again before each epoch (epoch)", "run or epoch"
    )
    matryoshka_dims: Dimensions = setting(
        (),
        "train embeddings that can be truncated to these dimensions (Matryoshka)",
        "integers in descending order, comma separated, none above the model's dimension: 768,256,64",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = setting(
        "auto",
        "peak learning rate of AdamW; auto: from the steps of an epoch, the size of the model and LoRA",
        "auto or a number above 0 and up to 1",
    )
    warmup_ratio: float = setting(0.1, "fraction of steps used for warm-up", "a number from 0 to 1", ge=0, le=1)
    weight_decay: float = setting(0.01, "weight decay of AdamW", "a number of at least 0", ge=0)
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = setting(
        "linear", "learning rate schedule after warm-up", "linear, cosine or constant_with_warmup"
    )
    weight_interpolation: WeightFraction = setting(
        "auto",
        "fraction of the trained weights in the published model, the rest is the base model's (WiSE-FT); below 1 it "
        "forgets less of other domains; auto: chosen on training pairs kept for it",
        "auto, a number from 0 to 1, or off for 1",
    )
    scale: float = setting(20.0, "factor applied to the cosine similarity (1 / temperature)", "a number above 0", gt=0)
    query_prompt: Prompt | None = setting(
        None, "prompt prepended to each query (anchor); the model's own if empty", "text, as in 'query: '"
    )
    document_prompt: Prompt | None = setting(
        None,
        "prompt prepended to each document (positives, negatives, corpus); the model's own if empty",
        "text, as in 'passage: '",
    )
    max_seq_length: int | None = setting(
        None,
        "maximum number of tokens, longer texts are truncated; the model's own limit if empty",
        "an integer of at least 2",
        ge=2,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "precision of the forward pass; weights stay in fp32", "auto, fp32, bf16 or fp16"
    )

    @field_validator("hard_negative_range")
    @classmethod
    def _has_enough_ranks(cls, ranks: RankRange, info: ValidationInfo) -> RankRange:
        count = info.data.get("num_hard_negatives", 0)
        if count > ranks.last - ranks.first + 1:
            raise ValueError(f"fewer ranks than MNRL_NUM_HARD_NEGATIVES={count}")
        return ranks

    @property
    def mines_every_epoch(self) -> bool:
        """Whether hard negatives are mined again before each epoch."""
        return self.num_hard_negatives > 0 and self.mining_interval == "epoch"
