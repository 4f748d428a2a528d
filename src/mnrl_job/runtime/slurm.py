"""What Slurm's srun says of the nodes of a job step."""

import re
from collections.abc import Mapping

# A step may take fewer nodes than the job has; ranks are those of the step.
COUNT = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
RANK = "SLURM_NODEID"
LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
TASKS_PER_NODE = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")


def first_host(environ: Mapping[str, str]) -> str | None:
    """The host of node 0: the first of the list, else the machine that srun was started on."""
    hosts = next((environ[name] for name in LISTS if environ.get(name)), "")
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])+", hosts)
    if first is None:
        return environ.get("SLURM_LAUNCH_NODE_IPADDR")
    return re.sub(r"\[([0-9]+)[^\[\]]*\]", r"\1", first[0])


def several_tasks(environ: Mapping[str, str]) -> str | None:
    """The variable that tells of more than one task on a node, with its value; None where there is one."""
    for name in TASKS_PER_NODE:
        if not re.fullmatch(r"(?:1(?:\(x[0-9]+\))?)?", environ.get(name, "")):
            return f"{name}={environ[name]}"
    if environ.get("SLURM_LOCALID", "0") != "0":
        return f"SLURM_LOCALID={environ['SLURM_LOCALID']}"
    return None
