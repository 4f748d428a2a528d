"""The pods that a cluster's controllers make of a workload: names, labels and variables as they add them."""

from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.rendering import Manifest, of_kind, workload

NAMESPACE = "training"
PORT = "29500"


@dataclass(frozen=True)
class Pod:
    """One pod. `added` are variables that a controller gives to all its containers."""

    hostname: str
    subdomain: str
    labels: dict[str, str]
    spec: dict[str, Any]
    added: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """By which others reach it, the fullest first; only its own without a subdomain."""
        if not self.subdomain:
            return [self.hostname]
        short = f"{self.hostname}.{self.subdomain}"
        return [f"{short}.{NAMESPACE}.svc.cluster.local", short, self.hostname]


def pods_of(manifests: tuple[Manifest, ...]) -> list[Pod]:
    found = workload(manifests)
    if found.kind == "Job":
        name = found.manifest["metadata"]["name"]
        return _of_job(name, found.job, {}, found.pod["spec"].get("subdomain", ""), found.job.get("completions", 1), {})
    if found.kind == "JobSet":
        return _of_set(found.manifest["metadata"]["name"], found.job, found.job["completions"], {})
    (job,) = of_kind(manifests, "TrainJob")
    name, nodes = job["metadata"]["name"], job["spec"]["trainer"]["numNodes"]
    # Kubeflow's torch plugin gives these to the container `node`, and to those that envInjection names.
    torch = {"PET_NNODES": str(nodes), "PET_NPROC_PER_NODE": "auto", "PET_MASTER_PORT": PORT}
    return _of_set(name, found.job, nodes, torch | {"PET_MASTER_ADDR": f"{name}-node-0-0.{name}"})


def _of_set(name: str, job: Manifest, count: int, added: dict[str, str]) -> list[Pod]:
    return _of_job(f"{name}-node-0", job, {"jobset.sigs.k8s.io/jobset-name": name}, name, count, added)


def _of_job(
    name: str, job: Manifest, labels: dict[str, str], subdomain: str, count: int, added: dict[str, str]
) -> list[Pod]:
    template = job["template"]
    labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name} | labels
    pods = []
    for index in range(count):
        mine = {"JOB_COMPLETION_INDEX": str(index)} if count > 1 else {}
        rank = {"PET_NODE_RANK": str(index)} if added else {}
        pods.append(Pod(f"{name}-{index}", subdomain, labels, template["spec"], mine | added | rank))
    return pods
