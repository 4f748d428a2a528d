"""The tasks of a run's workers and of a node's agent."""

from pathlib import Path

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs, input_hashes
from mnrl_job.data.pairs import Pairs
from mnrl_job.launch.node_agent import WORKERS, AgentTask
from mnrl_job.launch.run_identity import BATCH_PLAN
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import WORKERS_GRACE_FRACTION, local_rank_variables, worker_command, worker_identity
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.devices import Devices
from mnrl_job.system.files import sha256_of


def agent_task(settings: Settings, attempt: Attempt, devices: Devices) -> AgentTask:
    folder = attempt.scratch / "agent"
    return AgentTask(
        nodes=attempt.nodes,
        run_id=attempt.run_id,
        folder=folder,
        command=tuple(worker_command("train", attempt.scratch)),
        identities=tuple(
            worker_identity(devices, folder / WORKERS, rank) | local_rank_variables(devices, rank)
            for rank in range(devices.workers)
        ),
        node_timeout=settings.node_timeout.seconds,
        join_timeout=settings.join_timeout.seconds,
        hang_seconds=settings.hang_timeout.seconds,
        stop_seconds=WORKERS_GRACE_FRACTION * settings.grace_period.seconds,
        log_format=settings.log_format,
    )


def worker_task(
    settings: Settings,
    attempt: Attempt,
    inputs: Inputs,
    eval_sets: tuple[EvalSet, ...],
    pairs: Pairs | None = None,
    batch_plan: BatchPlan | None = None,
) -> WorkerTask:
    """The task of the workers. The batch plan counts as an input: all ranks must use the same."""
    hashes = input_hashes(inputs, eval_sets, pairs)
    if settings.accelerate_config:
        hashes["accelerate_config"] = sha256_of([Path(settings.accelerate_config)])
    if batch_plan:
        hashes[BATCH_PLAN] = sha256_of([batch_plan.plan])
    return WorkerTask(
        settings=settings.model_copy(update={"run_id": attempt.run_id}),
        model=inputs.model,
        guide=inputs.guide,
        scratch=attempt.scratch,
        staging=attempt.staging,
        eval_sets=eval_sets,
        inputs=hashes,
        pairs=pairs,
        batch_plan=batch_plan,
    )
