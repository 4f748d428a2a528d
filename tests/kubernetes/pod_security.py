"""The Pod Security Standard `restricted` as rules of our own, and what we ask beyond it."""

from collections.abc import Callable, Iterator
from typing import Any

Pod = dict[str, Any]
Rule = Callable[[Pod], Iterator[str]]

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SAFE_SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ping_group_range"}


def containers(pod: Pod) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def security(pod: Pod, container: dict[str, Any]) -> dict[str, Any]:
    """What holds for a container: its own settings, else the pod's."""
    shared: dict[str, Any] = pod.get("securityContext", {})
    return {**shared, **container.get("securityContext", {})}


def _shares_nothing_with_the_host(pod: Pod) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    for container in containers(pod):
        yield from (f"hostPort {port['hostPort']}" for port in container.get("ports", ()) if port.get("hostPort"))
        if security(pod, container).get("windowsOptions", {}).get("hostProcess"):
            yield f"{container['name']}: hostProcess"


def _probes_only_itself(pod: Pod) -> Iterator[str]:
    """Baseline since Kubernetes 1.34: a probe or hook with a host of its choice would ask others by the kubelet."""
    for container in containers(pod):
        hooks = container.get("lifecycle", {})
        asked = {name: container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")} | hooks
        for name, how in asked.items():
            if any((how or {}).get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
                yield f"{container['name']}: {name}"


def _mounts_only_what_is_its_own(pod: Pod) -> Iterator[str]:
    for volume in pod.get("volumes", ()):
        yield from (f"volume {volume['name']}: {kind}" for kind in volume if kind not in {"name", *VOLUMES})


def _is_not_privileged(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        own = container.get("securityContext", {})
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            yield container["name"]


def _cannot_gain_privileges(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield container["name"]


def _has_no_capabilities(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        capabilities = container.get("securityContext", {}).get("capabilities", {})
        if "ALL" not in capabilities.get("drop", ()) or capabilities.get("add"):
            yield container["name"]


def _is_not_root(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        holds = security(pod, container)
        # A number: the kubelet cannot tell whether a name is root.
        if holds.get("runAsNonRoot") is not True or not holds.get("runAsUser"):
            yield container["name"]


def _is_confined(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        holds = security(pod, container)
        if holds.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{container['name']}: seccomp"
        if holds.get("appArmorProfile", {}).get("type") == "Unconfined":
            yield f"{container['name']}: AppArmor"
        labels = holds.get("seLinuxOptions", {})
        if labels.get("type", "container_t") not in SELINUX_TYPES or labels.get("user") or labels.get("role"):
            yield f"{container['name']}: SELinux"


def _keeps_the_kernel_as_it_is(pod: Pod) -> Iterator[str]:
    for sysctl in pod.get("securityContext", {}).get("sysctls", ()):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield sysctl["name"]


def _cannot_write_its_root(pod: Pod) -> Iterator[str]:
    for container in containers(pod):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield container["name"]


def _has_no_token(pod: Pod) -> Iterator[str]:
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken"


RULES: dict[str, Rule] = {
    "host": _shares_nothing_with_the_host,
    "probes": _probes_only_itself,
    "volumes": _mounts_only_what_is_its_own,
    "privileged": _is_not_privileged,
    "escalation": _cannot_gain_privileges,
    "capabilities": _has_no_capabilities,
    "root": _is_not_root,
    "confinement": _is_confined,
    "sysctls": _keeps_the_kernel_as_it_is,
    # These two are ours.
    "read-only": _cannot_write_its_root,
    "token": _has_no_token,
}


def violations(pod: Pod) -> dict[str, list[str]]:
    """The rules that a pod's spec breaks, and where."""
    found = {name: list(rule(pod)) for name, rule in RULES.items()}
    return {name: where for name, where in found.items() if where}
