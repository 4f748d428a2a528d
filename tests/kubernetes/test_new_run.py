"""`scripts/new-run`: a run of its own in one command, valid, and without a change of what other runs share."""

import shlex

import pytest

from tests.kubernetes.new_run import IMAGE, NEEDED, make_copy
from tests.kubernetes.pod_security import violations
from tests.kubernetes.rendering import K8S, OVERLAYS, environment, of_kind, overlay, render, workload
from tests.kubernetes.test_schemas import all_problems

WITH_GPUS = sorted(set(OVERLAYS) - {"smoke-cpu"})
KINDS = {"jobset": "JobSet", "kubeflow": "TrainJob"}


@pytest.fixture
def copy(tmp_path):
    return make_copy(tmp_path)


def settings(manifests):
    (found,) = of_kind(manifests, "ConfigMap")
    return found["data"]


@pytest.mark.parametrize("name", WITH_GPUS)
def test_the_run_of_every_overlay_is_valid_restricted_and_named(name, copy):
    made = copy.render(*NEEDED, "--overlay", name, "--with", "spot", "--with", "kueue")
    assert all_problems(made) == []
    assert violations(workload(made).pod["spec"]) == {}
    (named,) = of_kind(made, KINDS.get(name, "Job"))
    assert named["metadata"]["name"] == "faq-7"
    # What makes its pods, too, or the next run would change it.
    assert workload(made).manifest["metadata"]["name"] == "faq-7"
    assert {one["image"] for one in workload(made).containers.values()} == {IMAGE}
    assert workload(made).pair[0]["resources"] == workload(overlay(name)).pair[0]["resources"]


def test_its_settings_are_its_own_and_no_other_file_changes(copy):
    made = copy.render(*NEEDED, "MNRL_EPOCHS=3", "AWS_REGION=eu-central-1")
    assert settings(made) == {
        "MNRL_TRAIN_DATA": "s3://bucket/pairs/",
        "MNRL_OUTPUT": "s3://bucket/runs",
        "MNRL_EPOCHS": "3",
        "AWS_REGION": "eu-central-1",
    }
    written = {path.relative_to(copy.runs) for path in copy.runs.rglob("*") if path.is_file()}
    assert {str(path) for path in written} == {"faq-7/kustomization.yaml", "faq-7/settings.env"}
    shared = [path for path in (copy.folder / "k8s").rglob("*") if path.is_file() and copy.runs not in path.parents]
    assert len(shared) > len(OVERLAYS)
    assert all(path.read_bytes() == (K8S / path.relative_to(copy.folder / "k8s")).read_bytes() for path in shared)


def test_eval_data_and_output_are_told(copy):
    made = copy.render(*NEEDED, "--eval-data", "faq=s3://other/eval/", "--output=s3://models/runs")
    assert settings(made)["MNRL_EVAL_DATA"] == "faq=s3://other/eval/"
    assert settings(made)["MNRL_OUTPUT"] == "s3://models/runs"


@pytest.mark.parametrize("gpus", [1, *(pytest.param(gpus, marks=pytest.mark.slow) for gpus in (2, 4)), 8])
@pytest.mark.parametrize("name", ["single-gpu", "kubeflow"])
def test_a_pod_gets_the_gpus_asked_for_and_what_feeds_them(name, gpus, copy):
    made = copy.render(*NEEDED, "--overlay", name, "--gpus", str(gpus))
    assert all_problems(made) == []
    for container in workload(made).pair:
        requests = container["resources"]["requests"]
        assert requests["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert (requests["cpu"], requests["memory"]) == (str(6 * gpus), f"{24 * gpus}Gi")
        assert environment(made, container)["MNRL_MIN_GPUS"] == str(gpus)


@pytest.mark.parametrize("name", WITH_GPUS)
def test_it_prints_the_secrets_that_the_pods_need_and_what_starts_and_follows_the_run(name, copy):
    parts = ("--with", "hub-token", "--with", "tracking")
    done = copy.new_run(*NEEDED, "--overlay", name, "--namespace", "training", *parts)
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  kubectl")]
    assert all(words[:3] == ["kubectl", "-n", "training"] for words in commands)
    *secrets, apply, logs = [words[3:] for words in commands]
    needed = {
        (one["valueFrom"]["secretKeyRef"]["name"], one["valueFrom"]["secretKeyRef"]["key"])
        for one in workload(render(copy.runs / "faq-7")).pair[1]["env"]
        if "secretKeyRef" in one.get("valueFrom", {}) and not one["valueFrom"]["secretKeyRef"].get("optional")
    }
    made = {(words[3], key.split("=")[1]) for words in secrets for key in words[4:]}
    assert all(words[:3] == ["create", "secret", "generic"] for words in secrets)
    assert needed <= made
    assert {secret for secret, _ in made} - {secret for secret, _ in needed} <= {"mnrl-job-tracking"}
    assert apply == ["apply", "-k", "k8s/runs/faq-7"]
    assert logs[:2] == ["logs", "job/faq-7-node-0" if name in KINDS else "job/faq-7"]


def test_a_role_takes_the_place_of_keys(copy):
    role = copy.folder / "k8s" / "components" / "irsa" / "kustomization.yaml"
    role.write_text(role.read_text().replace("111122223333", "444455556666"))
    done = copy.new_run(*NEEDED, "--with", "irsa")
    assert "secret" not in done.stdout
    made = render(copy.runs / "faq-7")
    assert not [one for one in workload(made).pair[1]["env"] if one["name"].startswith("AWS_")]
    (account,) = of_kind(made, "ServiceAccount")
    assert "444455556666" in account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]


def test_a_run_that_exists_is_left_as_it_is(copy):
    copy.new_run(*NEEDED)
    before = (copy.runs / "faq-7" / "settings.env").read_bytes()
    done = copy.new_run(*NEEDED, "MNRL_EPOCHS=3")
    assert done.returncode == 64
    assert "k8s/runs/faq-7 exists" in done.stderr
    assert (copy.runs / "faq-7" / "settings.env").read_bytes() == before


@pytest.mark.parametrize("name", ["null", "yes", "a", "a" * 45, "faq-2026-11-30"])
def test_a_name_stays_a_text(name, copy):
    made = copy.render(name, *NEEDED[1:], name=name)
    assert workload(made).manifest["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (NEEDED[1:], "NAME"),
        (("Faq", *NEEDED[1:]), "Faq"),
        (("faq_7", *NEEDED[1:]), "faq_7"),
        (("faq-", *NEEDED[1:]), "faq-"),
        (("7-faq", *NEEDED[1:]), "7-faq"),
        (("../faq", *NEEDED[1:]), "../faq"),
        (("a" * 46, *NEEDED[1:]), "45"),
        ((*NEEDED, "another"), "faq-7 another"),
        (("faq-7", "--train-data", "s3://bucket/pairs/"), "--image"),
        (("faq-7", "--image", "registry.example.com/mnrl-job:1.0", *NEEDED[3:]), "mnrl-job:1.0"),
        (NEEDED[:3], "--train-data"),
        ((*NEEDED[:3], "--train-data", "pairs.jsonl"), "pairs.jsonl"),
        ((*NEEDED[:3], "--train-data", "s3://bucket/a,b.jsonl"), "b.jsonl"),
        ((*NEEDED[:3], "--train-data", "s3://arn:aws:s3:eu-central-1:1:accesspoint/a/b"), "--output"),
        ((*NEEDED, "--eval-data", "eval/"), "eval/"),
        ((*NEEDED, "--output", "runs"), "--output"),
        ((*NEEDED, "--gpus", "3"), "--gpus"),
        ((*NEEDED, "--gpus"), "--gpus"),
        ((*NEEDED, "--overlay", "smoke-cpu"), "smoke-cpu"),
        ((*NEEDED, "--overlay", "prepare", "--gpus", "1"), "--gpus"),
        ((*NEEDED, "--with", "pvc"), "pvc"),
        ((*NEEDED, "--with", "irsa"), "irsa/kustomization.yaml"),
        ((*NEEDED, "--namespace", "My_Team"), "My_Team"),
        ((*NEEDED, "--epochs", "3"), "--epochs"),
        ((*NEEDED, "epochs=3"), "epochs"),
        ((*NEEDED, "MNRL_EPOCHS=3", "MNRL_EPOCHS=4"), "MNRL_EPOCHS"),
        ((*NEEDED, "MNRL_OUTPUT=s3://models/runs"), "MNRL_OUTPUT"),
        ((*NEEDED, "MNRL_RUN_ID=other"), "MNRL_RUN_ID"),
        ((*NEEDED, "MNRL_NUM_NODES=2"), "MNRL_NUM_NODES"),
        ((*NEEDED, "--with", "spot", "MNRL_CHECKPOINT_INTERVAL=10m"), "MNRL_CHECKPOINT_INTERVAL"),
        ((*NEEDED, "AWS_SECRET_ACCESS_KEY=abc"), "AWS_SECRET_ACCESS_KEY"),
        ((*NEEDED, "MNRL_QUERY_PROMPT=a\nb"), "line break"),
    ],
)
def test_what_cannot_be_is_64_in_one_line_that_names_it_and_leaves_nothing(arguments, named, copy):
    done = copy.new_run(*arguments)
    assert done.returncode == 64
    assert done.stderr.startswith("new-run: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert not copy.runs.exists()
