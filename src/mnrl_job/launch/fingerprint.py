"""The fingerprint of a node: what all nodes of a run must have in common."""

import importlib.metadata
import platform
from dataclasses import dataclass

from mnrl_job.errors import DataError, EnvironmentFailure, JobError, SettingsError
from mnrl_job.launch.run_identity import BATCH_PLAN, RunIdentity

PACKAGES = ("mnrl-job", "sentence-transformers", "transformers", "accelerate", "datasets", "torch")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a node is about to train, its versions of Python and packages, and how many workers it starts."""

    identity: RunIdentity
    versions: dict[str, str]
    workers: int


def fingerprint(identity: RunIdentity, workers: int) -> Fingerprint:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return Fingerprint(identity, versions, workers)


def find_mismatch(first: Fingerprint, other: Fingerprint, node: int) -> JobError | None:
    """The error for the first difference between `node` and node 0 (`first`); None where there is none."""
    difference = first.identity.find_difference(other.identity)
    if difference and difference.kind == "settings":
        values = f"MNRL_{difference.name.upper()}={difference.actual!r}, node 0 has {difference.expected!r}"
        return SettingsError(f"node {node} has {values}; give all nodes the same settings")
    for name in sorted(first.versions.keys() | other.versions.keys()):
        if first.versions.get(name) != other.versions.get(name):
            values = f"{name} {other.versions.get(name)}, node 0 has {first.versions.get(name)}"
            return EnvironmentFailure(f"node {node} has {values}; run the same image on all nodes")
    if difference and difference.name == BATCH_PLAN:
        return DataError(
            f"node {node} computed another batch plan than node 0 from the same data; use machines of one kind"
        )
    if difference:
        values = f"SHA-256 {difference.actual} and {difference.expected}"
        return DataError(
            f"node {node} reads other data for {difference.name} than node 0 ({values}); give all nodes the same"
        )
    if first.workers != other.workers:
        return SettingsError(
            f"node {node} has {other.workers} worker(s), node 0 has {first.workers}; give all nodes the same devices, "
            "or set MNRL_NUM_PROCESSES"
        )
    return None
