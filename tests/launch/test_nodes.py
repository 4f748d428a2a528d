"""The nodes of a run, from the settings or the environment variables of each scheduler."""

import socket

import psutil
import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.errors import SettingsError
from mnrl_job.launch.nodes import EXTERNAL, SINGLE_NODE, Nodes, find_nodes, interface_to
from mnrl_job.launch.workers import worker_environment
from mnrl_job.pipeline.evaluate import evaluate
from mnrl_job.system.devices import Devices

KUBEFLOW = {
    "PET_NNODES": "4",
    "PET_NPROC_PER_NODE": "auto",
    "PET_NODE_RANK": "3",
    "PET_MASTER_ADDR": "tune-node-0-0.tune",
    "PET_MASTER_PORT": "29400",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "GROUP_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "LOCAL_WORLD_SIZE": "1",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "MASTER_ADDR": "host-a",
    "MASTER_PORT": "1234",
}
SLURM = {
    "SLURM_NNODES": "3",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "gpu[03-05]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_LOCALID": "0",
}
MANUAL = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "host-a"}
# Kubelet writes a pod's full name into its /etc/hosts where it has a subdomain.
INDEXED_JOB = "tune-2.tune-pods.team.svc.cluster.local"
JOB_SET = "tune-workers-0-2.tune.team.svc.cluster.local"


def nodes_of(environ, full_name="", **settings):
    settings = Settings(**{"run_id": "tune"} | settings)
    names = "num_nodes", "node_rank", "master_addr", "run_id"
    return find_nodes(*(getattr(settings, name) for name in names), environ, lambda: full_name)


def problems(environ, full_name="", **settings):
    with pytest.raises(SettingsError) as caught:
        nodes_of(environ, full_name, **settings)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("environ", "full_name", "settings", "expected"),
    [
        ({}, "", {"num_nodes": "2", "node_rank": 1, "master_addr": "a.example"}, Nodes(2, 2, 1, "a.example", 29500)),
        (KUBEFLOW, "", {}, Nodes(4, 4, 3, "tune-node-0-0.tune", 29400)),
        (KUBEFLOW | {"PET_NNODES": "4:4"}, "", {}, Nodes(4, 4, 3, "tune-node-0-0.tune", 29400)),
        (KUBEFLOW | {"PET_NNODES": "2:4"}, "", {}, Nodes(2, 4, 3, "tune-node-0-0.tune", 29400)),
        (SLURM, "", {}, Nodes(3, 3, 1, "gpu03", 29500)),
        (TORCHRUN, "", {}, Nodes(2, 2, 1, "host-a", 1235)),
        (KUBEFLOW | {"PET_NNODES": "2:4"} | TORCHRUN, "", {}, Nodes(2, 2, 1, "host-a", 1235)),
        (MANUAL, "", {}, Nodes(2, 2, 0, "host-a", 29500)),
        (
            {"JOB_COMPLETION_INDEX": "2"},
            INDEXED_JOB,
            {"num_nodes": "3"},
            Nodes(3, 3, 2, "tune-0.tune-pods.team.svc.cluster.local", 29500),
        ),
        (
            {"JOB_COMPLETION_INDEX": "2"},
            JOB_SET,
            {"num_nodes": "3"},
            Nodes(3, 3, 2, "tune-workers-0-0.tune.team.svc.cluster.local", 29500),
        ),
        (KUBEFLOW, "", {"num_nodes": "8", "node_rank": 7, "master_addr": "b:5"}, Nodes(8, 8, 7, "b", 5)),
    ],
    ids=[
        "settings",
        "kubeflow",
        "kubeflow-range",
        "kubeflow-elastic",
        "slurm",
        "torchrun",
        "torchrun-in-kubeflow",
        "manual",
        "indexed-job",
        "jobset",
        "settings-take-precedence",
    ],
)
def test_nodes_are_found_from_settings_or_scheduler(environ, full_name, settings, expected):
    assert nodes_of(environ, full_name, **settings) == expected


@pytest.mark.parametrize("environ", [{}, {"JOB_COMPLETION_INDEX": "3"}, KUBEFLOW | {"PET_NNODES": "1"}])
def test_without_a_number_of_nodes_there_is_one(environ):
    assert nodes_of(environ, run_id="") == SINGLE_NODE


@pytest.mark.parametrize(
    ("master_addr", "expected"),
    [
        ("a", ("a", 29500)),
        ("a.b:1", ("a.b", 1)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 29500)),
        ("fd00::5", ("fd00::5", 29500)),
    ],
)
def test_the_master_address_may_have_a_port(master_addr, expected):
    nodes = nodes_of({}, num_nodes="2", node_rank=0, master_addr=master_addr)
    assert (nodes.master_addr, nodes.port) == expected


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu[03-05,7],login1", "gpu03"),
        ("login1,gpu[03-05]", "login1"),
        ("gpu[9,10-12]", "gpu9"),
        ("rack[1-2]-node[008-100].example", "rack1-node008.example"),
        ("node-a", "node-a"),
    ],
)
def test_the_first_host_of_slurm_is_node_0(hosts, first):
    assert nodes_of(SLURM | {"SLURM_JOB_NODELIST": hosts}).master_addr == first


def test_a_slurm_step_may_use_fewer_nodes_than_its_job():
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[04-05]"}
    assert nodes_of(SLURM | step) == Nodes(2, 2, 1, "gpu04", 29500)
    assert nodes_of(SLURM | {"SLURM_STEP_NUM_NODES": "1"}) == SINGLE_NODE


def test_slurm_tasks_may_be_separate_runs_and_a_batch_script_runs_on_one_node():
    tasks = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8"}
    assert nodes_of(tasks, num_nodes="1") == SINGLE_NODE
    assert nodes_of({"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NODEID": "0"}) == SINGLE_NODE


def test_without_a_list_the_launch_node_of_slurm_is_node_0():
    assert nodes_of(SLURM | {"SLURM_JOB_NODELIST": ""}).master_addr == "10.0.0.9"


def test_a_run_with_a_range_of_nodes_is_elastic():
    nodes = nodes_of({}, num_nodes="1:4", node_rank=3, master_addr="a")
    assert (nodes.is_elastic, nodes.is_single) == (True, False)
    assert not nodes_of(MANUAL).is_elastic
    assert (SINGLE_NODE.is_elastic, SINGLE_NODE.is_single) == (False, True)


def test_all_missing_settings_are_reported_at_once():
    assert problems({"JOB_COMPLETION_INDEX": "1"}, "tune-1", num_nodes="2", run_id="") == [
        "MNRL_MASTER_ADDR is required with 2 nodes: the host of node 0",
        "MNRL_RUN_ID is required with 2 nodes: the same on all nodes, such as the name of the job",
    ]
    (missing,) = problems({"PET_NNODES": "2", "MASTER_ADDR": "a"})
    assert missing.startswith("MNRL_NODE_RANK is required")


@pytest.mark.parametrize(
    ("environ", "settings", "message"),
    [
        ({"PET_NNODES": "4:1"}, {}, "PET_NNODES='4:1' is invalid (MIN 4 is greater than MAX 1)"),
        (KUBEFLOW, {"num_nodes": "1:3"}, "PET_NODE_RANK=3 is invalid with 1 to 3 nodes; expected at most 2"),
        (SLURM | {"SLURM_LOCALID": "1"}, {}, "SLURM_LOCALID=1: start one process per node"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NNODES": "1"}, {}, "SLURM_STEP_TASKS_PER_NODE=8: start one"),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_NTASKS_PER_NODE": "8"},
            {},
            "SLURM_NTASKS_PER_NODE=8: start one process per node",
        ),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, {}, "SLURM_STEP_TASKS_PER_NODE=2(x3): start one process"),
        ({"NNODES": "two"}, {}, "NNODES='two' is invalid"),
        ({"NNODES": "0"}, {}, "NNODES='0' is invalid"),
        (KUBEFLOW | {"PET_NODE_RANK": "x"}, {}, "PET_NODE_RANK='x' is invalid"),
        (KUBEFLOW | {"PET_NODE_RANK": "4"}, {}, "PET_NODE_RANK=4 is invalid with 4 nodes; expected at most 3"),
        (KUBEFLOW | {"PET_MASTER_PORT": "65536"}, {}, "PET_MASTER_PORT: 65536 is invalid"),
        (KUBEFLOW, {"node_rank": 5}, "MNRL_NODE_RANK=5 is invalid with 4 nodes"),
        (KUBEFLOW, {"master_addr": "a:b"}, "MNRL_MASTER_ADDR='a:b' is invalid; expected host or host:port"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, {}, "LOCAL_WORLD_SIZE=8: start one process per node"),
    ],
)
def test_an_inconsistent_environment_is_one_line_that_names_the_variable(environ, settings, message):
    (problem,) = problems(environ, **settings)
    assert problem.startswith(message)


def test_evaluation_is_refused_on_several_nodes():
    with pytest.raises(SettingsError, match=r"^MNRL_NUM_NODES: .*2 nodes.*evaluate"):
        evaluate(Settings(num_nodes="2", node_rank=0, master_addr="a", run_id="tune"))


def test_the_interface_is_the_one_that_reaches_the_master():
    addresses = psutil.net_if_addrs()[interface_to("127.0.0.1")]
    assert "127.0.0.1" in [address.address for address in addresses]
    assert interface_to("no-such-host.invalid") is None


@pytest.mark.parametrize("addresses", [["127.0.1.1"], ["127.0.1.1", "198.51.100.7"], ["::1"]])
@pytest.mark.parametrize("has_external_route", [True, False])
def test_a_host_name_that_resolves_to_loopback_is_reached_by_an_external_interface(
    monkeypatch, addresses, has_external_route
):
    getaddrinfo = socket.getaddrinfo

    def resolve(host, port, **options):
        if host in EXTERNAL and not has_external_route:
            raise OSError
        hosts = addresses if host == "node-0" else [host]
        return [entry for address in hosts for entry in getaddrinfo(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    interface = psutil.net_if_addrs().get(interface_to("node-0"), [])
    interface_addresses = [address.address for address in interface]
    assert not {"127.0.0.1", "::1"} & set(interface_addresses)
    if len(psutil.net_if_addrs()) > 1 or has_external_route:
        assert interface_addresses


def test_workers_do_not_inherit_the_variables_of_launchers(monkeypatch):
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert not {"RANK", "TORCHELASTIC_USE_AGENT_STORE"} & set(worker_environment(Devices(gpus=(), workers=1)))
