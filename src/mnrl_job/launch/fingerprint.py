"""The fingerprint of a node: what all nodes of a run must have in common, and what is wrong where they do not."""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

from mnrl_job.errors import DataError, EnvironmentFailure, JobError, SettingsError

PLAN = "batches"
PACKAGES = ("mnrl-job", "sentence-transformers", "transformers", "accelerate", "datasets", "torch")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a node is about to do.

    Attributes:
        settings: those that can change the result, as JSON values.
        inputs: SHA-256 by input, the plan of `batches` among them.
        versions: of Python and the packages that train.
        workers: how many this node starts.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]
    workers: int


def fingerprint(settings: dict[str, Any], inputs: dict[str, str], workers: int) -> Fingerprint:
    """That of this node."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return Fingerprint(settings, inputs, versions, workers)


def find_mismatch(first: Fingerprint, other: Fingerprint, node: int) -> JobError | None:
    """The first thing that a node has otherwise than node 0, as the error it means.

    Args:
        first: that of node 0.
        other: that of the other node.
        node: its number.
    """
    if name := _differing(first.settings, other.settings):
        values = f"MNRL_{name.upper()}={other.settings.get(name)!r}, node 0 has {first.settings.get(name)!r}"
        return SettingsError(f"node {node} has {values}; give all nodes the same settings")
    if name := _differing(first.versions, other.versions):
        values = f"{name} {other.versions.get(name)}, node 0 has {first.versions.get(name)}"
        return EnvironmentFailure(f"node {node} has {values}; run the same image on all nodes")
    if name := _differing(first.inputs, other.inputs | {PLAN: first.inputs.get(PLAN)}):
        values = f"SHA-256 {other.inputs.get(name)} and {first.inputs.get(name)}"
        return DataError(f"node {node} reads other data for {name} than node 0 ({values}); give all nodes the same")
    if first.inputs.get(PLAN) != other.inputs.get(PLAN):
        return DataError(
            f"node {node} has made another batch plan than node 0 from the same data; take machines of one kind"
        )
    if first.workers != other.workers:
        return SettingsError(
            f"node {node} has {other.workers} worker(s), node 0 has {first.workers}; give all nodes the same devices, "
            "or set MNRL_NUM_PROCESSES"
        )
    return None


def _differing(first: dict[str, Any], other: dict[str, Any]) -> str | None:
    return next((name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)), None)
