"""What the manifests promise: how runs end and go on, what pods may use, and that all of it agrees with the program."""

import json
import re

import pytest

from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import Settings
from mnrl_job.errors import HangTimeout, JobError, PeerFailed, Preempted
from tests.kubernetes.controllers import pods_of
from tests.kubernetes.rendering import (
    K8S,
    OVERLAYS,
    environment,
    of_kind,
    overlay,
    render,
    with_all_components,
    workload,
)
from tests.program import ROOT

CODES = {error.code: error for error in JobError.__subclasses__()}
KILLED = 137
# Which label of a pod holds the name that its owner keeps over all attempts.
NAME_LABELS = {
    "Job": "batch.kubernetes.io/job-name",
    "JobSet": "jobset.sigs.k8s.io/jobset-name",
    "TrainingRuntime": "jobset.sigs.k8s.io/jobset-name",
}
# By the program and its libraries, in a pod.
WRITTEN = {"/work", "/cache", "/tmp", "/dev/shm"}  # noqa: S108
MOST_BYTES_APPLIED = 262_144
BY_DIGEST = re.compile(r"[a-z0-9.:-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}")

SEVERAL_NODES = ("multi-node", "jobset", "kubeflow")

every_overlay = pytest.mark.parametrize("name", OVERLAYS)
on_several_nodes = pytest.mark.parametrize("name", SEVERAL_NODES)


def what_follows(job, code, disrupted):
    """What a Job does after a pod ended so: the first rule that matches, else the failure counts."""
    for rule in job["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", ()):
            return rule["action"]
        if disrupted and {"type": "DisruptionTarget"} in rule.get("onPodConditions", ()):
            return rule["action"]
    return "Count"


@every_overlay
@pytest.mark.parametrize("code", [*sorted(CODES), KILLED])
def test_a_job_tries_again_exactly_where_that_can_help(name, code):
    job = workload(overlay(name)).job
    helps = code == KILLED or CODES[code].retry_helps
    # A request to stop is nobody's fault, also where the pod asked was another node's; nor is another node's failure.
    is_free = code in (PeerFailed.code, Preempted.code)
    expected = "FailJob" if not helps else "Ignore" if is_free else "Count"
    assert what_follows(job, code, disrupted=False) == expected
    counts = code == HangTimeout.code
    assert what_follows(job, code, disrupted=True) == ("Count" if counts else "Ignore" if helps else "FailJob")


@every_overlay
def test_the_rules_are_such_as_kubernetes_takes(name):
    job = workload(overlay(name)).job
    values = [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert all(0 not in codes and codes == sorted(set(codes)) for codes in values)
    # All three come with a podFailurePolicy.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["podReplacementPolicy"] == "Failed"
    assert job["backoffLimit"] >= 0


@every_overlay
def test_a_job_ends_in_time_and_is_tidied_up(name):
    found = workload(overlay(name))
    assert found.job["activeDeadlineSeconds"] > 0
    if found.kind == "Job":
        assert found.job["ttlSecondsAfterFinished"] > 0
    else:
        # The owner would miss a Job that went by itself.
        assert "ttlSecondsAfterFinished" not in found.job
    if found.kind == "JobSet":
        assert found.manifest["spec"]["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize(("name", "path"), [("jobset", ()), ("kubeflow", ("template", "spec"))])
def test_a_set_of_jobs_starts_all_pods_again_but_not_after_a_final_failure(name, path):
    found = workload(overlay(name))
    spec = found.manifest["spec"]
    for part in path:
        spec = spec[part]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy", "DeadlineExceeded"])
    ]
    assert found.job["backoffLimit"] == 0


@every_overlay
def test_the_grace_period_is_that_of_the_program(name):
    found = workload(overlay(name))
    for container in found.pair:
        told = environment(overlay(name), container)["MNRL_GRACE_PERIOD"]
        assert told == f"{found.pod['spec']['terminationGracePeriodSeconds']}s"


@every_overlay
def test_the_run_id_is_the_name_that_stays_when_pods_are_replaced(name):
    found = workload(overlay(name))
    for container in found.pair:
        source = environment(overlay(name), container)["MNRL_RUN_ID"]
        assert source == {"fieldRef": {"fieldPath": f"metadata.labels['{NAME_LABELS[found.kind]}']"}}


@every_overlay
def test_the_check_comes_first_and_has_all_that_the_training_has(name):
    check, train = workload(overlay(name)).pair
    assert (check["args"], train["args"]) == (["check"], ["prepare" if name == "prepare" else "train"])
    differing = {key for key in check.keys() | train.keys() if check.get(key) != train.get(key)}
    assert differing == {"name", "args", "livenessProbe"}


@every_overlay
def test_every_setting_is_one_of_the_program_and_is_accepted(name):
    for manifests in (overlay(name), with_all_components(name)):
        for container in workload(manifests).pair:
            values = environment(manifests, container)
            ours = {key: value if isinstance(value, str) else "from-the-pod" for key, value in values.items()}
            assert {key for key in ours if key.startswith("MNRL_")} <= {
                f"MNRL_{field.upper()}" for field in Settings.model_fields
            }
            read_settings("train", {}, ours, {})


@every_overlay
def test_a_pod_that_sees_fewer_gpus_than_it_was_granted_does_not_train(name):
    for container in workload(overlay(name)).pair:
        granted = container["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert environment(overlay(name), container).get("MNRL_MIN_GPUS", "0") == str(granted)


@every_overlay
def test_every_image_is_named_by_its_digest(name):
    images = {one["image"] for one in workload(overlay(name)).containers.values()}
    assert len(images) == 1
    assert all(BY_DIGEST.fullmatch(image) for image in images)


@pytest.mark.parametrize(
    "image", ["mnrl-job", "registry.example.com/mnrl-job:latest", "registry.example.com/mnrl-job:1.0"]
)
def test_a_tag_is_not_taken_for_a_digest(image):
    assert not BY_DIGEST.fullmatch(image)


def amount(quantity):
    """`24Gi` as a number."""
    number, unit = re.fullmatch(r"([0-9]+)(|Mi|Gi)", str(quantity)).groups()
    return int(number) << {"": 0, "Mi": 20, "Gi": 30}[unit]


@every_overlay
def test_what_a_pod_uses_is_said_and_bounded(name):
    found = workload(overlay(name))
    for container in found.containers.values():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() >= {"cpu", "memory", "ephemeral-storage"}
        assert limits.keys() >= {"memory", "ephemeral-storage"}
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
        assert all(amount(requests[name]) <= amount(limits[name]) for name in limits)
    assert ("nvidia.com/gpu" in limits) == (name not in ("smoke-cpu", "prepare"))
    shm = next(one for one in found.pod["spec"]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    assert shm["emptyDir"]["sizeLimit"]


@every_overlay
def test_a_training_that_stands_still_is_noticed(name):
    train = workload(overlay(name)).pair[1]
    probe = train["livenessProbe"]
    assert probe["exec"]["command"] == ["python", "-m", "mnrl_job.health"]
    # The program's own watchdog has as much patience and tells more, so it comes first.
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


@every_overlay
def test_all_that_the_program_writes_is_a_volume(name):
    found = workload(overlay(name))
    volumes = {one["name"] for one in found.pod["spec"]["volumes"]}
    for container in found.pair:
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        assert mounts.keys() >= WRITTEN
        assert {one["name"] for one in mounts.values()} == volumes
        assert environment(overlay(name), container)["MNRL_WORK_DIR"] == "/work"


@every_overlay
def test_an_object_is_small_enough_for_kubectl_apply(name):
    assert all(len(json.dumps(one).encode()) < MOST_BYTES_APPLIED for one in overlay(name))


@every_overlay
def test_nobody_reaches_the_pods_and_they_reach_names_and_https(name):
    policy = next(one for one in of_kind(overlay(name), "NetworkPolicy") if one["metadata"]["name"] == "mnrl-job")
    (account,) = of_kind(overlay(name), "ServiceAccount")
    own = policy["spec"]["podSelector"]["matchLabels"]
    pod = workload(overlay(name)).pod
    assert own.items() <= pod["metadata"]["labels"].items()
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policy["spec"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", ())}
    assert ports == {53, 5353, 443} | ({10443} if name == "kubeflow" else set())
    assert account["metadata"]["name"] == pod["spec"]["serviceAccountName"]
    assert account["automountServiceAccountToken"] is False


@on_several_nodes
def test_pods_of_one_run_reach_one_another_at_any_port_and_no_other_run(name):
    (policy,) = (one for one in of_kind(overlay(name), "NetworkPolicy") if one["metadata"]["name"] != "mnrl-job")
    pods = {"podSelector": {"matchLabels": {NAME_LABELS[workload(overlay(name)).kind]: name}}}
    assert policy["metadata"]["name"] == name, "the policy of another run must not take its place"
    assert policy["spec"] == pods | {
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [pods]}],
        "egress": [{"to": [pods]}],
    }
    assert all(pods["podSelector"]["matchLabels"].items() <= pod.labels.items() for pod in pods_of(overlay(name)))


@every_overlay
def test_several_nodes_sign_what_they_tell_one_another(name):
    several = name in SEVERAL_NODES
    for container in workload(overlay(name)).pair:
        secret = environment(overlay(name), container).get("MNRL_GROUP_SECRET")
        # Without the Secret no pod starts, so none runs unsigned.
        assert secret == ({"secretKeyRef": {"name": "mnrl-job-group", "key": "secret"}} if several else None)
    assert of_kind(overlay(name), "Secret") == []


@pytest.mark.parametrize("name", ["multi-node", "jobset"])
def test_the_number_of_nodes_is_said_the_same_everywhere(name):
    found = workload(overlay(name))
    assert found.job["completionMode"] == "Indexed"
    assert found.job["completions"] == found.job["parallelism"]
    for container in found.pair:
        assert environment(overlay(name), container)["MNRL_NUM_NODES"] == str(found.job["completions"])


def test_kubeflow_says_the_number_of_nodes_itself_and_to_the_check_too():
    found = workload(overlay("kubeflow"))
    (job,) = of_kind(overlay("kubeflow"), "TrainJob")
    policy = found.manifest["spec"]["mlPolicy"]
    assert policy["numNodes"] == job["spec"]["trainer"]["numNodes"] == 2
    assert policy["torch"]["envInjection"]["targets"] == [{"jobName": "node", "containerNames": ["check"]}]
    assert job["spec"]["runtimeRef"]["name"] == found.manifest["metadata"]["name"]
    assert list(found.containers) == ["check", "node"]
    assert not [key for one in found.pair for key in environment(overlay("kubeflow"), one) if key == "MNRL_NUM_NODES"]


def test_the_service_gives_every_node_a_name_before_it_is_ready():
    (service,) = of_kind(overlay("multi-node"), "Service")
    pod = workload(overlay("multi-node")).pod
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]


def test_the_smoke_run_has_the_settings_of_the_example():
    script = (ROOT / "examples" / "support-faq" / "train.sh").read_text()
    settings = environment(overlay("smoke-cpu"), workload(overlay("smoke-cpu")).pair[1])
    for name in ("MNRL_EPOCHS", "MNRL_BATCH_SIZE"):
        assert f"{name}-{settings[name]}}}" in script


def test_the_quota_covers_all_that_pods_ask_for():
    (queue,) = of_kind(render(K8S / "queues"), "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    named = {one["name"] for one in group["flavors"][0]["resources"]}
    asked = {key for name in OVERLAYS for key in workload(overlay(name)).pair[1]["resources"]["requests"]}
    assert asked <= set(group["coveredResources"]) == named
