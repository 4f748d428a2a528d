"""The role of a worker that exports a published model."""

from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record


def export_role(task: WorkerTask) -> None:
    """Export to the format of the task."""
    if task.export_format is None:
        raise ValueError("an export task needs a format")
    from mnrl_job.worker.export import export  # takes seconds, and other roles do not need it

    write_record(task.scratch / "export.json", export(task.export_format, task))
