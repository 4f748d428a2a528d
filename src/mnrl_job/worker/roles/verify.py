"""The roles of a worker that reloads a model, in a process that has not trained it."""

from mnrl_job.embedding.load_errors import is_fault_of_device
from mnrl_job.errors import DataError, JobError, first_line
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.verify import verify


def verify_role(task: WorkerTask) -> None:
    """Verify the model that was just saved."""
    verification = verify(task.staging / "model", task.staging / "verification.json")
    write_record(task.scratch / "verified.json", verification)


def verify_published_role(task: WorkerTask) -> None:
    """Verify the model of a published run.

    Raises:
        DataError: it cannot be loaded, or gives other embeddings; for `verify_role` these are internal errors.
    """
    try:
        verify_role(task)
    except Exception as error:
        if is_fault_of_device(error):
            raise
        is_known = isinstance(error, JobError)
        raise DataError(str(error) if is_known else f"its model cannot be loaded: {first_line(error)}") from error
