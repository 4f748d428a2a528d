"""Nodes started by the launchers of others: torchrun itself, and what Slurm's srun and Kubeflow Trainer set."""

import subprocess
import sys

import pytest

from tests import hosts
from tests.program import ROOT, clean_environment
from tests.scenes import SETTINGS, make_scene

SECONDS = 180
SHORT = {"MNRL_EPOCHS": "3", "MNRL_NODE_TIMEOUT": "5s", "MNRL_JOIN_TIMEOUT": "90s"}
ENTRYPOINT = str(ROOT / "entrypoint.py")

LACKING = hosts.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(LACKING), reason=LACKING)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_model):
    return make_scene(tmp_path_factory.mktemp("launchers"), tiny_model)


@pytest.fixture
def machines():
    with hosts.several_hosts(3) as found:
        yield found


def ends(scene, run_id, machines, launcher, variables):
    """Launch a run on each machine with variables of its own. Returns the exit codes, and what all said."""
    nodes, logs = [], [scene.folder / f"{run_id}-{rank}.log" for rank in range(len(machines))]
    for machine, own, log in zip(machines, variables, logs, strict=True):
        environment = clean_environment(**SETTINGS | SHORT | own, MNRL_RUN_ID=run_id)
        with log.open("w") as told:
            nodes.append(
                subprocess.Popen(
                    machine.command(*launcher, ENTRYPOINT, "train"),
                    cwd=scene.folder,
                    env=environment,
                    stdout=told,
                    stderr=told,
                )
            )
    try:
        codes = [node.wait(SECONDS) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    return codes, "\n".join(log.read_text()[-3000:] for log in logs)


def assert_published_by(scene, run_id, workers, said):
    assert (scene.run_folder(run_id) / "_SUCCESS").exists(), said
    assert f"with {workers} x CPU" in said
    assert scene.metrics(run_id)["run"]["id"] == run_id


def test_torchrun_starts_one_process_a_node(scene, machines):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{machines[0].address}:29400", "--rdzv-id", "r"]
    # These hosts have the name of this machine in common, by which torchrun would tell who is who.
    variables = [
        {"PET_LOCAL_ADDR": machine.address, "PET_RDZV_CONF": f"is_host={str(rank == 0).lower()}"}
        for rank, machine in enumerate(machines[:2])
    ]
    codes, said = ends(scene, "torchrun", machines[:2], launcher, variables)
    assert codes == [0, 0], said
    assert_published_by(scene, "torchrun", 2, said)


def test_srun_starts_one_task_a_node(scene, machines):
    common = {
        "SLURM_NNODES": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[0-1]",
        "SLURM_STEP_NODELIST": "node-[0-1]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_LOCALID": "0",
    }
    variables = [common | {"SLURM_NODEID": rank, "SLURM_PROCID": rank} for rank in "01"]
    codes, said = ends(scene, "slurm", machines[:2], [sys.executable], variables)
    assert codes == [0, 0], said
    assert_published_by(scene, "slurm", 2, said)


def test_a_train_job_is_elastic_where_it_says_so(scene, machines):
    common = {
        "PET_NNODES": "2:3",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "node-0",
        "PET_MASTER_PORT": "29500",
    }
    variables = [common | {"PET_NODE_RANK": rank} for rank in "012"]
    codes, said = ends(scene, "train-job", machines, [sys.executable], variables)
    assert codes == [0, 0, 0], said
    assert_published_by(scene, "train-job", 3, said)
