"""Every setting in one frozen, typed model.

The click options, the environment names, `env.example`, the docs table and the JSON schema are generated from its
fields.
"""

from typing import Any

from pydantic import ConfigDict, SecretStr, ValidationInfo, field_validator, model_validator

from mnrl_job.config.data_settings import DataSettings
from mnrl_job.config.evaluation_settings import EvaluationSettings
from mnrl_job.config.run_settings import RunSettings
from mnrl_job.config.training_settings import TrainingSettings

PREFIX = "MNRL_"
# Not settings: variables of the container image, for `metrics.json`.
IMAGE, GIT_SHA = "MNRL_JOB_IMAGE", "MNRL_JOB_GIT_SHA"
# No metric can fall by more, so this `min_gain` disables the gate.
NO_GATE = -1.0

# Former names that difflib would not match with the present ones.
RENAMED = {
    "eval_holdout": "holdout_ratio",
    "hard_negative_margin": "hard_negative_relative_margin",
    "mine_every": "mining_interval",
    "patience": "early_stopping_patience",
    "track": "report_to",
}
# Former settings without a successor, and what applies instead.
REMOVED = {
    "batching": "duplicates are kept apart where possible, and masked where not",
    "export": "export a published run with `mnrl-job export RUN_URI --format FORMAT`",
}
# Leading and trailing whitespace of these is part of the value.
KEEP_WHITESPACE = ("query_prompt", "document_prompt")


# Pydantic collects the fields of the last base first.
class Settings(RunSettings, EvaluationSettings, TrainingSettings, DataSettings):
    """The settings of one run. Field `batch_size` is `MNRL_BATCH_SIZE` in the environment, `--batch-size` as a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _strip_whitespace(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.strip() if isinstance(value, str) and name not in KEEP_WHITESPACE else value
            for name, value in values.items()
        }

    @field_validator("accelerate_config")
    @classmethod
    def _supports_sharding(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file and info.data.get("eval_interval") is not None:
            raise ValueError("a sharded model does not support MNRL_EVAL_INTERVAL")
        if file and info.data.get("mining_interval") == "epoch":
            raise ValueError("a sharded model does not support MNRL_MINING_INTERVAL=epoch")
        return file


REQUIRED = {
    "train": ("train_data", "output"),
    "prepare": ("train_data", "output"),
    "check": ("train_data", "output"),
    "evaluate": ("eval_data", "output"),
    "verify": (),
    "export": (),
    "compare": (),
    "settings": (),
}


def env_name(field: str) -> str:
    """`batch_size` -> `MNRL_BATCH_SIZE`."""
    return PREFIX + field.upper()


def flag_name(field: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + field.replace("_", "-")


def as_text(value: object) -> str:
    """A setting's value as text that can be parsed again; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def is_secret_setting(field: str) -> bool:
    """Whether the value is masked."""
    return Settings.model_fields[field].annotation is SecretStr


def accepts(field: str) -> str:
    """The accepted values of a setting, in words."""
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra["accepts"]) if isinstance(extra, dict) else ""
