"""Pods are as closed as a restricted namespace wants them, and the rules that say so would notice if not."""

import copy

import pytest

from tests.kubernetes.pod_security import RULES, violations
from tests.kubernetes.rendering import OVERLAYS, overlay, workload

TRAIN = "containers.0.securityContext"
BROKEN = {
    "host": ("hostNetwork", True),
    "probes": ("containers.0.livenessProbe", {"httpGet": {"port": 80, "host": "169.254.169.254"}}),
    "volumes": ("volumes", [{"name": "docker", "hostPath": {"path": "/var/run/docker.sock"}}]),
    "privileged": (f"{TRAIN}.privileged", True),
    "escalation": (f"{TRAIN}.allowPrivilegeEscalation", True),
    "capabilities": (f"{TRAIN}.capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}),
    "root": (f"{TRAIN}.runAsUser", 0),
    "confinement": (f"{TRAIN}.seccompProfile", {"type": "Unconfined"}),
    "sysctls": ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "65536"}]),
    "read-only": (f"{TRAIN}.readOnlyRootFilesystem", False),
    "token": ("automountServiceAccountToken", True),
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_pods_of_every_overlay_are_restricted(name):
    assert violations(workload(overlay(name)).pod["spec"]) == {}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_notices_what_breaks_it(rule):
    pod = copy.deepcopy(workload(overlay("single-gpu")).pod["spec"])
    path, value = BROKEN[rule]
    *parents, last = path.split(".")
    place = pod
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    assert list(violations(pod)) == [rule]
