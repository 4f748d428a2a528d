"""Nodes of a Slurm job step, from the environment variables of srun."""

import re
from collections.abc import Mapping

# A step may use fewer nodes than the job; ranks are relative to the step.
COUNT = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
RANK = "SLURM_NODEID"
LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
STEP_TASKS = "SLURM_STEP_TASKS_PER_NODE"
JOB_TASKS = "SLURM_NTASKS_PER_NODE"
LOCAL_RANK = "SLURM_LOCALID"


def first_host(environ: Mapping[str, str]) -> str | None:
    """The host of node 0: the first in the list, else the machine that started srun."""
    hosts = next((environ[name] for name in LISTS if environ.get(name)), "")
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])+", hosts)
    if first is None:
        return environ.get("SLURM_LAUNCH_NODE_IPADDR")
    return re.sub(r"\[([0-9]+)[^\[\]]*\]", r"\1", first[0])


def multiple_tasks(environ: Mapping[str, str]) -> str | None:
    """`VARIABLE=value` if there is more than one task per node, else None."""
    tasks = STEP_TASKS if environ.get(STEP_TASKS) else JOB_TASKS
    if not re.fullmatch(r"(?:1(?:\(x[0-9]+\))?)?", environ.get(tasks, "")):
        return f"{tasks}={environ[tasks]}"
    if environ.get(LOCAL_RANK, "0") != "0":
        return f"{LOCAL_RANK}={environ[LOCAL_RANK]}"
    return None
