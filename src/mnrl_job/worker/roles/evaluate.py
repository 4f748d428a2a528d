"""The role of a worker that scores a model without training."""

from accelerate import PartialState

from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.devices import describe_devices, peak_memory
from mnrl_job.worker.model import describe_model, load_base_model
from mnrl_job.worker.results import WorkerResult
from mnrl_job.worker.scoring import evaluate_all


def evaluate_role(task: WorkerTask) -> None:
    loaded = load_base_model(task)
    before = evaluate_all(loaded.model, task, "before")
    state = PartialState()
    if state.is_main_process:
        devices = (describe_devices(state),)
        result = WorkerResult(describe_model(loaded, task.model), before, devices, peak_memory())
        write_record(task.scratch / "result.json", result)
