"""Overlays are played: their pods run as rendered, on hosts of their own, and leave a published run."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import hosts
from tests.kubernetes.controllers import pods_of
from tests.kubernetes.kubelet import Kubelet, give, termination_message
from tests.kubernetes.new_run import IMAGE, make_copy
from tests.kubernetes.rendering import K8S, with_components
from tests.scenes import make_scene
from tests.servers.s3 import KEYS

LACKING = hosts.why_not() or next((f"{name} is missing" for name in ("tini", "setpriv") if not shutil.which(name)), "")
pytestmark = [pytest.mark.manifests, pytest.mark.skipif(bool(LACKING), reason=LACKING)]

SETTINGS = """\
MNRL_TRAIN_DATA=/runs/data/pairs.jsonl
MNRL_EVAL_DATA=/runs/data/faq.json
MNRL_OUTPUT=/runs
MNRL_BASE_MODEL=/runs/data/model
MNRL_BATCH_SIZE=8
MNRL_LEAKAGE_POLICY=keep
"""


@pytest.fixture
def pair():
    with hosts.several_hosts(2) as found:
        yield found


def play(folder, manifests, machines, baked=None):
    """Run each pod on a machine, all at once. Returns the pods, their kubelets, and how each ended."""
    pods, claims = pods_of(manifests), folder / "claims"
    kubelets = []
    for machine in machines[: len(pods)]:
        (folder / machine.name).mkdir()
        kubelets.append(Kubelet(folder / machine.name, machine, claims, manifests, baked or {}))
        kubelets[-1].know(pods, [one.address for one in machines[: len(pods)]])
    with ThreadPoolExecutor() as together:
        ends = list(together.map(lambda kubelet, pod: kubelet.run(pod), kubelets, pods))
    return pods, kubelets, ends


@pytest.fixture
def claim(tmp_path, tiny_model):
    """A volume that all nodes share, with pairs, an eval set and a model on it."""
    folder = tmp_path / "claims" / "mnrl-job-runs"
    (folder / "data").mkdir(parents=True)
    make_scene(folder / "data", tiny_model)
    return folder


@pytest.mark.parametrize(("name", "train"), [("multi-node", "train"), ("jobset", "train"), ("kubeflow", "node")])
def test_the_nodes_find_one_another_check_train_and_publish(name, train, tmp_path, claim, pair):
    manifests = with_components(tmp_path / "copy", name, "pvc", settings=SETTINGS)
    give(claim, pods_of(manifests)[0])
    pods, kubelets, ends = play(tmp_path, manifests, pair)
    said = "\n".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("*/*.log")))
    assert ends == [(train, 0), (train, 0)], said
    run = claim / name
    assert (run / "_SUCCESS").exists(), said
    assert json.loads((run / "metrics.json").read_text())["run"]["id"] == name
    for kubelet, pod in zip(kubelets, pods, strict=True):
        assert "ready to train" in kubelet.log(pod, "check")
    assert "waiting for node 0 to report and publish" in kubelets[1].log(pods[1], train)
    waited = kubelets[1].folder / "volumes" / pods[1].hostname / "work" / "progress.json"
    # As long as that may take, which the probe of the pod that waits must allow, too.
    assert json.loads(waited.read_text())["phase"] == "publish"


@contextmanager
def s3_server(folder, machine):
    """An S3 server on a machine, at the port of MinIO. Its buckets are the folders in a folder."""
    rclone = str(Path(sys.executable).with_name("rclone"))
    words = (rclone, "serve", "s3", "--auth-key", ",".join(KEYS), "--addr", f"{machine.address}:9000", str(folder))
    server = subprocess.Popen(machine.command(*words))
    try:
        yield f"http://{machine.address}:9000"
    finally:
        server.terminate()
        server.wait()


def test_a_new_run_trains_on_data_in_s3_and_publishes_there(tmp_path, tiny_model, pair):
    bucket = tmp_path / "s3" / "bucket"
    bucket.mkdir(parents=True)
    make_scene(bucket, tiny_model)
    with s3_server(bucket.parent, pair[0]) as endpoint:
        manifests = make_copy(tmp_path / "copy").render(
            *(
                "faq-7",
                "--image",
                IMAGE,
                "--train-data",
                "s3://bucket/pairs.jsonl",
                "--eval-data",
                "s3://bucket/faq.json",
            ),
            *("MNRL_BASE_MODEL=s3://bucket/model", "MNRL_BATCH_SIZE=8", "MNRL_LEAKAGE_POLICY=keep"),
            *(f"AWS_ENDPOINT_URL_S3={endpoint}", "MNRL_S3_ADDRESSING_STYLE=path", "AWS_REGION=us-east-1"),
        )
        (pod,), (kubelet,), ends = play(tmp_path, manifests, pair)
    assert ends == [("train", 0)], kubelet.log(pod, ends[0][0])[-3000:]
    assert (bucket / "runs" / "faq-7" / "_SUCCESS").exists()


def test_bad_settings_end_in_the_check_with_their_code_and_a_message(tmp_path, claim, pair):
    manifests = with_components(tmp_path / "copy", "single-gpu", "pvc", settings=SETTINGS + "MNRL_EPOCHS=none\n")
    give(claim, pods_of(manifests)[0])
    (pod,), (kubelet,), ends = play(tmp_path, manifests, pair)
    assert ends == [("check", 64)]
    assert "MNRL_EPOCHS" in termination_message(kubelet, pod, "check")["message"]
    assert not (claim / "single-gpu").exists()


def test_the_smoke_run_needs_no_network_and_no_hub(tmp_path, minilm, pair):
    settings = (K8S / "overlays" / "smoke-cpu" / "settings.env").read_text() + "MNRL_MAX_STEPS=2\n"
    manifests = with_components(tmp_path / "copy", "smoke-cpu", settings=settings)
    pair[0].cable("down")
    (pod,), (kubelet,), ends = play(tmp_path, manifests, pair, {"/models/base": minilm})
    assert ends == [("train", 0)], kubelet.log(pod, "train")[-3000:]
    assert (kubelet.folder / "volumes" / pod.hostname / "work" / "runs" / "smoke-cpu" / "_SUCCESS").exists()
    assert "support-faq" in kubelet.log(pod, "train")
