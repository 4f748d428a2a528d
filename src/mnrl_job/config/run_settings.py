"""Settings of checkpoints, timeouts, devices, nodes and logs."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr

from mnrl_job.config.setting_types import (
    Duration,
    DurationSetting,
    Interval,
    IntervalSetting,
    NodeRangeSetting,
    Trackers,
    setting,
)


class RunSettings(BaseModel):
    """Where and how the job runs."""

    checkpoint_interval: IntervalSetting = setting(
        Interval(seconds=600.0), "how often to save a checkpoint", "steps (500) or a time (90s, 10m, 1h)"
    )
    grace_period: DurationSetting = setting(
        Duration(30.0),
        "time between SIGTERM and SIGKILL (terminationGracePeriodSeconds, docker stop -t)",
        "a time (30s, 5m)",
    )
    hang_timeout: DurationSetting = setting(
        Duration(600.0), "abort when no worker makes progress for this long", "a time (90s, 10m, 1h)"
    )
    seed: int = setting(42, "random seed", "an integer from 0 to 4294967295", ge=0, lt=2**32)
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1)] = setting(
        "auto", "workers on this machine; auto: one per visible GPU, or 1 on a CPU", "auto or an integer of at least 1"
    )
    min_gpus: int = setting(
        0,
        "GPUs required on each machine; with fewer the run fails (exit 78) instead of using a CPU",
        "an integer of at least 0",
        ge=0,
    )
    num_nodes: NodeRangeSetting | None = setting(
        None,
        "number of nodes, MIN:MAX for an elastic run; if empty, taken from the scheduler (PET_NNODES, "
        "SLURM_NNODES, …), else 1",
        "an integer of at least 1, or MIN:MAX, as in 2:8",
    )
    node_rank: Annotated[int, Field(ge=0)] | None = setting(
        None,
        "rank of this node; if empty, taken from the scheduler (JOB_COMPLETION_INDEX, PET_NODE_RANK, SLURM_NODEID, …)",
        "an integer of at least 0",
    )
    master_addr: str = setting(
        "",
        "address of node 0; if empty, taken from the scheduler",
        "host or host:port (default port 29500)",
    )
    join_timeout: DurationSetting = setting(
        Duration(1800.0),
        "how long to wait for all nodes to join, or for MIN nodes of an elastic run",
        "a time (90s, 10m, 1h)",
    )
    node_timeout: DurationSetting = setting(Duration(30.0), "heartbeat timeout for a node", "a time (30s, 2m, 1h)")
    group_secret: SecretStr = setting(SecretStr(""), "shared secret that signs messages between nodes", "text")
    accelerate_config: str | None = setting(
        None, "accelerate configuration file for a sharded model (FSDP2)", "a YAML file"
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = setting(
        "auto", "bucket addressing of S3 requests; most S3-compatible stores need path", "auto, path or virtual"
    )
    log_format: Literal["auto", "text", "json"] = setting(
        "auto", "format of log and results; auto: text if stderr is a terminal, else JSON lines", "auto, text or json"
    )
    report_to: Trackers = setting((), "experiment trackers to report to", "tensorboard, wandb, mlflow, comma separated")
