"""Whether a training can use the prepared tokens, and the texts where it cannot."""

from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.config.settings import Settings
from mnrl_job.embedding.token_fingerprint import token_fingerprint
from mnrl_job.launch.worker_task import ROW_FILES, WorkerTask
from mnrl_job.runs.verify import verify_run
from mnrl_job.storage import is_remote, local_path, open_store
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.logs import log
from mnrl_job.system.record_files import relocated
from mnrl_job.training.shard_files import VARIABLE


def with_usable_tokens(model: SentenceTransformer, task: WorkerTask) -> WorkerTask:
    """The task; without prepared tokens, which is logged, if training needs the texts or other tokens. Collective.

    Raises:
        JobError: the texts cannot be downloaded.
    """
    tokens = task.batch_plan.tokens if task.batch_plan else None
    if task.batch_plan is None or tokens is None or not (reason := reason_for_texts(model, task.settings, tokens)):
        return task
    log(f"tokenizing batch by batch instead of using the prepared tokens: {reason}")
    return with_rows(replace(task, batch_plan=replace(task.batch_plan, tokens=None)), tokens.uri.rpartition("/")[0])


def reason_for_texts(model: SentenceTransformer, settings: Settings, tokens: TokenShards) -> str:
    """Why training needs more than these tokens; empty if it does not."""
    if settings.num_hard_negatives:
        return "MNRL_NUM_HARD_NEGATIVES adds negatives to each pair"
    if settings.loss == "guided":
        return "MNRL_LOSS=guided needs the texts"
    if token_fingerprint(model) != tokens.fingerprint:
        return "the model has another tokenizer, maximum length or prompt"
    return ""


def with_rows(task: WorkerTask, uri: str) -> WorkerTask:
    """The task with texts and groups that are those of the prepared data set, downloaded once per machine. Collective.

    Raises:
        DataError: one differs from the manifest.
        JobError: the storage does not answer.
    """
    folder = task.scratch / "rows" if is_remote(uri) else local_path(uri, VARIABLE)
    if is_local_main_process():
        verify_run(open_store(uri, VARIABLE, task.settings.s3_addressing_style), folder, ROW_FILES)
    PartialState().wait_for_everyone()

    def place(path: Path) -> Path:
        return folder / path.name if path.name in ROW_FILES else path

    return replace(task, pairs=relocated(task.pairs, place), batch_plan=relocated(task.batch_plan, place))
