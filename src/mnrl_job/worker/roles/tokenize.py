"""The role of a worker that tokenizes the training pairs in the order of the plan."""

from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import write_record
from mnrl_job.training.shard_writer import write_shards
from mnrl_job.training.token_lengths import measure_lengths
from mnrl_job.worker.model import load_base_model
from mnrl_job.worker.results import Tokenized


def tokenize_role(task: WorkerTask) -> None:
    """Write the shards to the folder `tokens` of what will be published."""
    model = load_base_model(task).model
    if task.pairs is None or task.batch_plan is None:
        raise ValueError("tokenizing needs pairs")
    enter_phase(Phase.TOKENIZE)
    lengths = measure_lengths(model, task.pairs)
    shards = write_shards(model, task.pairs, task.batch_plan, task.staging / "tokens")
    write_record(task.scratch / "tokenize.json", Tokenized(shards, lengths))
