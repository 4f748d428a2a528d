"""Run identity: whether two attempts, nodes or ranks belong to the same run, and what differs if not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mnrl_job.config.settings import Settings
from mnrl_job.system.json_text import sha256_of_json

# The name of the batch plan among the inputs; it is computed from the others.
BATCH_PLAN = "batches"
# These decide where a run happens and how it is reported, not its result.
NON_RESULT_SETTINGS = {
    "run_id",
    "output",
    "prepared",
    "work_dir",
    "log_format",
    "num_processes",
    "min_gpus",
    "num_nodes",
    "node_rank",
    "master_addr",
    "join_timeout",
    "node_timeout",
    "group_secret",
    "mini_batch_size",
    "gradient_checkpointing",
    "checkpoint_interval",
    "grace_period",
    "hang_timeout",
    "s3_addressing_style",
    "report_to",
}
# These apply after training: a run that failed the gate may resume with other values.
POST_TRAINING_SETTINGS = {"min_gain", "max_p_value", "guard_evals", "max_guard_loss"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting or an input with two values."""

    kind: Literal["settings", "inputs"]
    name: str
    expected: Any
    actual: Any


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What determines the result of a run: settings, as JSON values, and SHA-256 by input, also of the batch plan."""

    settings: dict[str, Any]
    inputs: dict[str, str]

    @property
    def settings_hash(self) -> str:
        return sha256_of_json(self.settings)

    def for_resume(self) -> "RunIdentity":
        """What an attempt must share with the checkpoint that it resumes from."""
        settings = {name: value for name, value in self.settings.items() if name not in POST_TRAINING_SETTINGS}
        if settings.get("weight_interpolation", "auto") != "auto":  # auto keeps pairs from training
            settings["weight_interpolation"] = "a number"
        return RunIdentity(settings, self.inputs)

    def find_difference(self, actual: "RunIdentity") -> Difference | None:
        """The first difference: settings before inputs, by name, the batch plan last."""
        return next(_differences("settings", self.settings, actual.settings), None) or next(
            _differences("inputs", self.inputs, actual.inputs), None
        )


def run_identity(settings: Settings, inputs: dict[str, str]) -> RunIdentity:
    return RunIdentity(settings.model_dump(mode="json", exclude=NON_RESULT_SETTINGS), inputs)


def _differences(
    kind: Literal["settings", "inputs"], expected: Mapping[str, Any], actual: Mapping[str, Any]
) -> Iterator[Difference]:
    for name in sorted(expected.keys() | actual.keys(), key=lambda name: (name == BATCH_PLAN, name)):
        if expected.get(name) != actual.get(name):
            yield Difference(kind, name, expected.get(name), actual.get(name))
