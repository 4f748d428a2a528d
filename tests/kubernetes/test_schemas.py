"""Every object is one that the three newest versions of Kubernetes, JobSet, Kueue and Kubeflow Trainer know."""

import copy

import pytest
import yaml

from tests.kubernetes.rendering import K8S, OVERLAYS, of_kind, overlay, render, with_all_components
from tests.kubernetes.schemas import VERSIONS, problems

CLAIM = yaml.safe_load((K8S / "components" / "pvc" / "claim.yaml").read_text())


def all_problems(manifests):
    return [
        f"{version}: {one}" for version in VERSIONS for manifest in manifests for one in problems(manifest, version)
    ]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_valid(name):
    assert all_problems(overlay(name)) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_valid_with_all_components_at_once(name):
    assert all_problems(with_all_components(name)) == []


def test_the_quota_and_the_claim_are_valid():
    assert all_problems((*render(K8S / "queues"), CLAIM)) == []


@pytest.mark.parametrize(
    ("name", "kind", "path", "value"),
    [
        ("single-gpu", "Job", "spec.backofLimit", 6),
        ("single-gpu", "Job", "spec.template.spec.containers.0.resources.limits.memory", ["4Gi"]),
        ("multi-node", "Service", "spec.publishNotReady", True),
        ("jobset", "JobSet", "spec.failurePolicy.maxRestart", 6),
        ("jobset", "JobSet", "spec.failurePolicy.restartStrategy", "Never"),
        ("jobset", "JobSet", "spec.replicatedJobs.0.template.spec.podReplacement", "Failed"),
        ("kubeflow", "TrainingRuntime", "spec.mlPolicy.nodes", 2),
        ("kubeflow", "TrainJob", "spec.trainer.numNodes", "2"),
        ("kubeflow", "TrainJob", "kind", "TrainJobs"),
    ],
)
def test_a_misspelt_field_or_a_value_of_the_wrong_type_is_noticed(name, kind, path, value):
    broken = copy.deepcopy(of_kind(overlay(name), kind)[0])
    *parents, last = path.split(".")
    place = broken
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    assert len(all_problems([broken])) == len(VERSIONS)
