"""The role of a worker that exports the saved model to other formats, in the Python environment of the exporters."""

from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.export import export
from mnrl_job.worker.results import Exports


def export_role(task: WorkerTask) -> None:
    """Export to all formats of `MNRL_EXPORT`."""
    exports = tuple(export(name, task) for name in task.settings.export)
    write_record(task.scratch / "exports.json", Exports(exports))
