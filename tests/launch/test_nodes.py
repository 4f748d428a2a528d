"""Who takes part: from the settings, or from what each scheduler says."""

import socket

import psutil
import pytest

from mnrl_job.config.settings import Settings
from mnrl_job.errors import SettingsError
from mnrl_job.launch.nodes import OUTSIDE, SINGLE_NODE, Nodes, find_nodes, interface_to
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
BY_HAND = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "host-a"}
# Kubelet writes a pod's full name into its /etc/hosts where it has a subdomain.
INDEXED_JOB = "tune-2.tune-pods.team.svc.cluster.local"
JOB_SET = "tune-workers-0-2.tune.team.svc.cluster.local"


def found(environ, full_name="", **settings):
    return find_nodes(Settings(**{"run_id": "tune"} | settings), environ, lambda: full_name)


def problems(environ, full_name="", **settings):
    with pytest.raises(SettingsError) as caught:
        found(environ, full_name, **settings)
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
        (BY_HAND, "", {}, Nodes(2, 2, 0, "host-a", 29500)),
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
        "by-hand",
        "indexed-job",
        "jobset",
        "settings-win",
    ],
)
def test_nodes_are_known_from_settings_or_scheduler(environ, full_name, settings, expected):
    assert found(environ, full_name, **settings) == expected


@pytest.mark.parametrize("environ", [{}, {"JOB_COMPLETION_INDEX": "3"}, KUBEFLOW | {"PET_NNODES": "1"}])
def test_without_a_number_of_nodes_a_machine_works_alone(environ):
    assert found(environ, run_id="") == SINGLE_NODE


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a", ("a", 29500)),
        ("a.b:1", ("a.b", 1)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 29500)),
        ("fd00::5", ("fd00::5", 29500)),
    ],
)
def test_a_master_may_have_a_port(text, place):
    nodes = found({}, num_nodes="2", node_rank=0, master_addr=text)
    assert (nodes.master_addr, nodes.port) == place


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
def test_the_first_of_slurms_hosts_is_node_0(hosts, first):
    assert found(SLURM | {"SLURM_JOB_NODELIST": hosts}).master_addr == first


def test_a_slurm_step_may_take_fewer_nodes_than_its_job():
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[04-05]"}
    assert found(SLURM | step) == Nodes(2, 2, 1, "gpu04", 29500)
    assert found(SLURM | {"SLURM_STEP_NUM_NODES": "1"}) == SINGLE_NODE


def test_slurms_tasks_may_be_runs_of_their_own_and_a_batch_script_may_run_on_one_node():
    tasks = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8"}
    assert found(tasks, num_nodes="1") == SINGLE_NODE
    assert found({"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NODEID": "0"}) == SINGLE_NODE


def test_without_a_list_slurms_launching_node_is_node_0():
    assert found(SLURM | {"SLURM_JOB_NODELIST": ""}).master_addr == "10.0.0.9"


def test_a_run_is_elastic_where_its_number_of_nodes_may_change():
    nodes = found({}, num_nodes="1:4", node_rank=3, master_addr="a")
    assert (nodes.is_elastic, nodes.is_single) == (True, False)
    assert not found(BY_HAND).is_elastic
    assert (SINGLE_NODE.is_elastic, SINGLE_NODE.is_single) == (False, True)


def test_everything_that_is_missing_is_named_at_once():
    assert problems({"JOB_COMPLETION_INDEX": "1"}, "tune-1", num_nodes="2", run_id="") == [
        "MNRL_MASTER_ADDR is required, the host of node 0, since there are 2 nodes",
        "MNRL_RUN_ID is required, the same on all 2 nodes; the name of the job would do",
    ]
    (missing,) = problems({"PET_NNODES": "2", "MASTER_ADDR": "a"})
    assert missing.startswith("MNRL_NODE_RANK is required")


@pytest.mark.parametrize(
    ("environ", "settings", "said"),
    [
        ({"PET_NNODES": "4:1"}, {}, "PET_NNODES='4:1' is invalid (MIN 4 is greater than MAX 1)"),
        (KUBEFLOW, {"num_nodes": "1:3"}, "PET_NODE_RANK=3: there are 1 to 3 nodes, so the last is number 2"),
        (SLURM | {"SLURM_LOCALID": "1"}, {}, "SLURM_LOCALID=1: start one process a node"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NNODES": "1"}, {}, "SLURM_STEP_TASKS_PER_NODE=8: start one"),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_NTASKS_PER_NODE": "8"},
            {},
            "SLURM_NTASKS_PER_NODE=8: start one process a node",
        ),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, {}, "SLURM_STEP_TASKS_PER_NODE=2(x3): start one process"),
        ({"NNODES": "two"}, {}, "NNODES='two' is invalid"),
        ({"NNODES": "0"}, {}, "NNODES='0' is invalid"),
        (KUBEFLOW | {"PET_NODE_RANK": "x"}, {}, "PET_NODE_RANK='x' is invalid"),
        (KUBEFLOW | {"PET_NODE_RANK": "4"}, {}, "PET_NODE_RANK=4: there are 4 nodes, so the last is number 3"),
        (KUBEFLOW | {"PET_MASTER_PORT": "65536"}, {}, "PET_MASTER_PORT: 65536 is invalid"),
        (KUBEFLOW, {"node_rank": 5}, "MNRL_NODE_RANK=5: there are 4 nodes"),
        (KUBEFLOW, {"master_addr": "a:b"}, "MNRL_MASTER_ADDR='a:b' is invalid; expected host or host:port"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, {}, "LOCAL_WORLD_SIZE=8: start one process a node"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_the_variable(environ, settings, said):
    (problem,) = problems(environ, **settings)
    assert problem.startswith(said)


def test_evaluation_is_refused_on_several_nodes():
    with pytest.raises(SettingsError, match=r"^MNRL_NUM_NODES: .*2 nodes.*evaluate"):
        evaluate(Settings(num_nodes="2", node_rank=0, master_addr="a", run_id="tune"))


def test_the_interface_is_the_one_on_the_way_to_the_master():
    addresses = psutil.net_if_addrs()[interface_to("127.0.0.1")]
    assert "127.0.0.1" in [one.address for one in addresses]
    assert interface_to("no-such-host.invalid") is None


@pytest.mark.parametrize("addresses", [["127.0.1.1"], ["127.0.1.1", "198.51.100.7"], ["::1"]])
@pytest.mark.parametrize("leads_outside", [True, False])
def test_a_machine_that_has_its_own_name_for_loopback_is_reached_from_others(monkeypatch, addresses, leads_outside):
    known = socket.getaddrinfo

    def answer(host, port, **options):
        if host in OUTSIDE and not leads_outside:
            raise OSError
        found = addresses if host == "node-0" else [host]
        return [one for address in found for one in known(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    addresses_there = [one.address for one in psutil.net_if_addrs().get(interface_to("node-0"), [])]
    assert not {"127.0.0.1", "::1"} & set(addresses_there)
    if len(psutil.net_if_addrs()) > 1 or leads_outside:
        assert addresses_there


def test_workers_do_not_inherit_what_launchers_say_to_others(monkeypatch):
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert not {"RANK", "TORCHELASTIC_USE_AGENT_STORE"} & set(worker_environment(Devices(gpus=(), workers=1)))
