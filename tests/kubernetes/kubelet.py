"""A kubelet for tests: runs the containers of a pod as rendered, one after the other, each with a root of its own.

The image is played by this machine's Python and packages, below a root that cannot be written; user, groups, volumes,
variables, names and limits of privilege are those of the pod. It needs root.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts import NAMES, Host
from tests.kubernetes.controllers import Pod
from tests.kubernetes.rendering import Manifest, environment, of_kind
from tests.program import ROOT
from tests.servers.s3 import KEYS

PATIENCE_SECONDS = 900
# What a user has made, by Secret and key; files often end with a line break.
SECRETS = {
    "mnrl-job-group": {"secret": "0123456789abcdef\n"},
    "mnrl-job-s3": dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), KEYS, strict=True)),
}
HOME = "/opt/mnrl-job"
IMAGE = {
    "PATH": f"{HOME}/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "USER": "mnrl",
    "HOME": "/cache",
    "XDG_CACHE_HOME": "/cache",
    "HF_HOME": "/cache/huggingface",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
PACKAGES = [path for path in sys.path if path.endswith("site-packages")]
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = [path for path in map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")) if path.exists()]


@dataclass(frozen=True)
class Kubelet:
    """Of one host. `claims` holds a folder for each claim, `baked` are folders that the image holds, by their place."""

    folder: Path
    host: Host
    claims: Path
    manifests: tuple[Manifest, ...]
    baked: Mapping[str, Path]

    def know(self, pods: list[Pod], addresses: list[str]) -> None:
        """What DNS and /etc/hosts of a pod tell; its own full name comes before its short one."""
        lines = [" ".join([address, *pod.names]) for pod, address in zip(pods, addresses, strict=True)]
        (NAMES / self.host.name / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")

    def run(self, pod: Pod) -> tuple[str, int]:
        """Run init containers, then the container. Returns which was the last, and its exit code."""
        for container in (*pod.spec["initContainers"], *pod.spec["containers"]):
            code = self._run(pod, container)
            if code:
                break
        return container["name"], code

    def log(self, pod: Pod, container: str) -> str:
        return (self.folder / f"{pod.hostname}-{container}.log").read_text()

    def _run(self, pod: Pod, container: Manifest) -> int:
        script = self.folder / f"{pod.hostname}-{container['name']}.sh"
        script.write_text("\n".join(self._script(pod, container)) + "\n")
        words = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-eu", str(script)]
        with script.with_suffix(".log").open("w") as log:
            done = subprocess.run(
                self.host.command(*words), stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS
            )
        return done.returncode

    def _script(self, pod: Pod, container: Manifest) -> Iterator[str]:
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        yield f"cd / && hostname {pod.hostname} && mount -t tmpfs -o mode=755 root {root}"
        for path in SYSTEM:
            yield f"cp -P {path} {root}{path}" if path.is_symlink() else _mount(path, f"{root}{path}", read_only=True)
        yield f"mkdir -p {root}/proc {root}/dev && mount -t proc proc {root}/proc"
        for device in DEVICES:
            yield f"touch {root}/dev/{device} && mount --bind /dev/{device} {root}/dev/{device}"
        yield from self._image(root)
        volumes = {one["name"]: self._volume(pod, one) for one in pod.spec["volumes"]}
        for mount in container["volumeMounts"]:
            yield _mount(volumes[mount["name"]], f"{root}{mount['mountPath']}", mount.get("readOnly", False))
        kept = self.folder / f"{pod.hostname}-{container['name']}.termination"
        kept.touch()
        kept.chmod(0o666)
        yield f"touch {root}/dev/termination-log && mount --bind {kept} {root}/dev/termination-log"
        if container["securityContext"]["readOnlyRootFilesystem"]:
            yield f"mount -o remount,ro {root}"
        variables = [f"{name}={value}" for name, value in self.environment(pod, container).items()]
        words = ["env", "-i", *variables, *_as_user(pod, container), "tini", "--", "mnrl-job", *container["args"]]
        yield f"cd {root}/work && exec chroot {root} {shlex.join(words)}"

    def _image(self, root: Path) -> Iterator[str]:
        """Python, packages and the job."""
        yield _mount(Path(sys.base_prefix), f"{root}{sys.base_prefix}", read_only=True)
        yield _mount(ROOT / "src", f"{root}{HOME}/src", read_only=True)
        for at, path in enumerate(PACKAGES):
            yield _mount(Path(path), f"{root}{HOME}/packages-{at}", read_only=True)
        for place, folder in self.baked.items():
            yield _mount(folder, f"{root}{place}", read_only=True)
        paths = ":".join([f"{HOME}/src", *(f"{HOME}/packages-{at}" for at in range(len(PACKAGES)))])
        python = f'#!/bin/sh\nPYTHONPATH={paths} exec {sys.base_prefix}/bin/python3 "$@"\n'
        job = '#!/bin/sh\nexec python -c "from mnrl_job.start import main; main()" "$@"\n'
        yield f"mkdir {root}{HOME}/bin"
        for name, text in (("python", python), ("mnrl-job", job)):
            yield f"printf %s {shlex.quote(text)} >{root}{HOME}/bin/{name} && chmod 755 {root}{HOME}/bin/{name}"

    def environment(self, pod: Pod, container: Manifest) -> dict[str, str]:
        """Those of the image, of ConfigMaps, then the container's own with labels and secrets filled in."""
        baked = {"MNRL_BASE_MODEL": next(iter(self.baked))} if self.baked else {}
        own = {
            name: value if isinstance(value, str) else _taken(pod, value)
            for name, value in environment(self.manifests, container).items()
            if not _is_missing(value)
        }
        return IMAGE | baked | own | pod.added | {"MNRL_MIN_GPUS": "0"}  # there is none to see here

    def _config_map(self, name: str) -> dict[str, str]:
        return next(one["data"] for one in of_kind(self.manifests, "ConfigMap") if one["metadata"]["name"] == name)

    def _volume(self, pod: Pod, volume: dict[str, Any]) -> Path:
        if "persistentVolumeClaim" in volume:
            return self.claims / volume["persistentVolumeClaim"]["claimName"]
        place = self.folder / "volumes" / pod.hostname / volume["name"]
        if place.exists():  # the containers of a pod share them
            return place
        place.mkdir(parents=True)
        place.chmod(0o2777)
        os.chown(place, 0, pod.spec["securityContext"]["fsGroup"])
        if "projected" in volume:
            self._project(place, volume["projected"]["sources"])
        return place

    def _project(self, place: Path, sources: list[Manifest]) -> None:
        """Files in a hidden folder that a link names, and links to them, as the kubelet swaps them all at once."""
        (place / "..2026").mkdir()
        (place / "..data").symlink_to("..2026")
        for source in sources:
            content = self._config_map(source["configMap"]["name"])
            items = source["configMap"].get("items") or [{"key": key, "path": key} for key in content]
            for item in items:
                file = place / "..2026" / item["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content[item["key"]])
        for one in (place / "..2026").iterdir():
            (place / one.name).symlink_to(f"..data/{one.name}")


def _mount(source: Path, target: str, read_only: bool) -> str:
    made = f"mkdir -p {target} && mount --rbind {source} {target}"
    return f"{made} && mount -o remount,bind,ro {target}" if read_only else made


def _is_missing(value: str | dict[str, Any]) -> bool:
    """Whether it is an optional key that the user's Secret lacks."""
    source = {} if isinstance(value, str) else value.get("secretKeyRef", {})
    return bool(source.get("optional")) and source["key"] not in SECRETS[source["name"]]


def _taken(pod: Pod, source: dict[str, Any]) -> str:
    """The value of a variable that names where it is."""
    if "secretKeyRef" in source:
        return SECRETS[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
    path = source["fieldRef"]["fieldPath"]
    found = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
    assert found, path
    return pod.labels[found[1]]


def _as_user(pod: Pod, container: Manifest) -> list[str]:
    """The user and the privileges that a pod asks for."""
    holds = pod.spec["securityContext"]
    own = container["securityContext"]
    words = [
        "setpriv",
        f"--reuid={holds['runAsUser']}",
        f"--regid={holds['runAsGroup']}",
        f"--groups={holds['fsGroup']}",
    ]
    if own["allowPrivilegeEscalation"] is False:
        words.append("--no-new-privs")
    if own["capabilities"]["drop"] == ["ALL"]:
        words += ["--bounding-set=-all", "--inh-caps=-all"]
    return words


def give(folder: Path, pod: Pod) -> None:
    """Let the pod's group write to a claim, as fsGroup does."""
    group = pod.spec["securityContext"]["fsGroup"]
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, group=group)
        path.chmod(0o2775 if path.is_dir() else 0o664)


def termination_message(kubelet: Kubelet, pod: Pod, container: str) -> dict[str, Any]:
    text = (kubelet.folder / f"{pod.hostname}-{container}.termination").read_text()
    return json.loads(text) if text else {}
