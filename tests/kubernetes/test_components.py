"""Components compose: each does its part in every overlay, whatever else is chosen."""

import pytest
import yaml

from tests.kubernetes.pod_security import violations
from tests.kubernetes.rendering import K8S, OVERLAYS, environment, of_kind, render, with_all_components, workload

# What a user has made before: Secrets by name, and their keys.
SECRETS = {
    "AWS_ACCESS_KEY_ID": "mnrl-job-s3",
    "AWS_SECRET_ACCESS_KEY": "mnrl-job-s3",
    "AWS_SESSION_TOKEN": "mnrl-job-s3",
    "HF_TOKEN": "mnrl-job-hub",
    "WANDB_API_KEY": "mnrl-job-tracking",
    "MLFLOW_TRACKING_TOKEN": "mnrl-job-tracking",
    "MLFLOW_TRACKING_USERNAME": "mnrl-job-tracking",
    "MLFLOW_TRACKING_PASSWORD": "mnrl-job-tracking",
}


@pytest.fixture(params=OVERLAYS)
def composed(request):
    """An overlay with all components."""
    return with_all_components(request.param)


def test_all_of_them_together_are_restricted_still(composed):
    assert violations(workload(composed).pod["spec"]) == {}


def test_secrets_come_from_secrets_for_the_check_and_the_training(composed):
    for container in workload(composed).pair:
        values = environment(composed, container)
        assert {name: values[name]["secretKeyRef"]["name"] for name in SECRETS} == SECRETS
        assert all(values[name]["secretKeyRef"]["key"] == name for name in SECRETS)
    assert of_kind(composed, "Secret") == []


def test_runs_go_to_the_claim(composed):
    claim = yaml.safe_load((K8S / "components" / "pvc" / "claim.yaml").read_text())
    volumes = {one["name"]: one for one in workload(composed).pod["spec"]["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for container in workload(composed).pair:
        assert environment(composed, container)["MNRL_OUTPUT"] == "/runs"
        assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]


def test_a_claim_outlives_the_runs_in_it(composed):
    assert of_kind(composed, "PersistentVolumeClaim") == []


def test_the_account_has_a_role(composed):
    (account,) = of_kind(composed, "ServiceAccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")


def test_the_queue_is_named_where_kueue_looks(composed):
    """On the object that a user made: of a TrainJob that is not its runtime."""
    (watched,) = [one for one in composed if one["kind"] in ("Job", "JobSet", "TrainJob")]
    (queue,) = of_kind(render(K8S / "queues"), "LocalQueue")
    assert watched["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]


def test_spot_machines_of_any_provider_are_chosen_and_their_taints_tolerated(composed):
    pod = workload(composed).pod["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    chosen = {term["matchExpressions"][0]["key"] for term in terms}
    tolerated = {one["key"] for one in pod["tolerations"]}
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= chosen & tolerated
    if "nvidia.com/gpu" in workload(composed).pair[1]["resources"]["limits"]:
        assert "nvidia.com/gpu" in tolerated
    assert {"karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType"} <= chosen


def test_trackers_are_a_setting(composed):
    assert environment(composed, workload(composed).pair[1])["MNRL_REPORT_TO"] == "wandb"


def test_each_overlay_keeps_its_own_beside_them(composed):
    """The hash in the settings' name reached the pods, and resources were not lost."""
    names = {one["metadata"]["name"] for one in of_kind(composed, "ConfigMap")}
    for container in workload(composed).pair:
        assert {one["configMapRef"]["name"] for one in container["envFrom"]} <= names
        assert container["resources"]["requests"]
