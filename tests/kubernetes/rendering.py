"""The manifests as a cluster gets them: rendered by kubectl, with the workload and the pods that come out."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.program import ROOT

K8S = ROOT / "k8s"
EXAMPLE = Path("examples", "support-faq")
KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir())
# In an order that a user could choose; the GPUs and the number of nodes are the overlays' own.
COMPONENTS = ("s3-credentials", "irsa", "pvc", "kueue", "spot", "hub-token", "tracking")

Manifest = dict[str, Any]


@cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def overlay(name: str) -> tuple[Manifest, ...]:
    return render(K8S / "overlays" / name)


def with_components(folder: Path, name: str, *components: str, settings: str = "") -> tuple[Manifest, ...]:
    """An overlay as a user edits it in a copy: with components before the one that must be last, and settings."""
    shutil.copytree(K8S, folder / "k8s")
    shutil.copytree(ROOT / EXAMPLE, folder / EXAMPLE)
    file = folder / "k8s" / "overlays" / name / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    last = [one for one in content.get("components", ()) if one == "from-job"]
    own = [one for one in content.get("components", ()) if one != "from-job"]
    content["components"] = [*own, *(f"../../components/{one}" for one in components), *last]
    file.write_text(yaml.safe_dump(content))
    if settings:
        own_settings = file.with_name("settings.env")
        (own_settings if own_settings.exists() else folder / "k8s" / "base" / "settings.env").write_text(settings)
    return render(file.parent)


@cache
def with_all_components(name: str) -> tuple[Manifest, ...]:
    with tempfile.TemporaryDirectory() as folder:
        return with_components(Path(folder), name, *COMPONENTS)


@dataclass(frozen=True)
class Workload:
    """What makes the pods: the object as it was rendered, and the spec of the Job in it."""

    manifest: Manifest
    job: Manifest

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def pod(self) -> Manifest:
        """The pods' template."""
        return self.job["template"]

    @property
    def containers(self) -> dict[str, Manifest]:
        """By name: the check, and the training."""
        spec = self.pod["spec"]
        return {one["name"]: one for one in (*spec.get("initContainers", ()), *spec["containers"])}

    @property
    def pair(self) -> tuple[Manifest, Manifest]:
        """The check, and the training whatever it is called."""
        return self.pod["spec"]["initContainers"][0], self.pod["spec"]["containers"][0]


def workload(manifests: tuple[Manifest, ...]) -> Workload:
    """The one that runs."""
    for one in manifests:
        if one["kind"] == "Job":
            return Workload(one, one["spec"])
        if one["kind"] == "JobSet":
            return Workload(one, one["spec"]["replicatedJobs"][0]["template"]["spec"])
        if one["kind"] == "TrainingRuntime":
            return Workload(one, one["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"])
    raise LookupError("nothing runs")


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == kind]


def environment(manifests: tuple[Manifest, ...], container: Manifest) -> dict[str, Any]:
    """The variables of a container: those of its ConfigMaps, then its own, each a text or where it is taken from."""
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in of_kind(manifests, "ConfigMap")}
    found: dict[str, Any] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    return found | {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}
