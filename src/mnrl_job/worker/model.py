"""Loading, describing and saving a worker's model."""

from pathlib import Path

from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.assumptions import log_assumptions
from mnrl_job.embedding.loading import Loaded, ModelOptions, load_model
from mnrl_job.embedding.model_facts import ModelFacts
from mnrl_job.embedding.positions import max_tokens
from mnrl_job.embedding.prompts import find_prompt
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.storage import split_revision
from mnrl_job.system import logs
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.phases import Phase
from mnrl_job.worker.verify import record_probes


def load_base_model(task: WorkerTask) -> Loaded:
    """The base model. The main process logs what was assumed about it."""
    loaded = load_model(task.model, model_options(task.settings), task.settings.base_model)
    if PartialState().is_main_process:
        log_assumptions(loaded.assumed)
        if loaded.adapter_of:
            logs.log(f"merged the adapter {task.settings.base_model} into {loaded.adapter_of}")
    return loaded


def model_options(settings: Settings) -> ModelOptions:
    return ModelOptions(
        settings.max_seq_length, settings.query_prompt, settings.document_prompt, settings.matryoshka_dims
    )


def describe_model(loaded: Loaded, name: str) -> ModelFacts:
    """The facts of a model for the report; `name` is the Hub id, with the revision, or folder it was loaded from."""
    model = loaded.model
    return ModelFacts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding_dimension=int(model.get_embedding_dimension() or 0),
        max_seq_length=max_tokens(model),
        revision=split_revision(name)[1] or None,
        query_prompt=find_prompt(model, "query") or "",
        document_prompt=find_prompt(model, "document") or "",
        assumed=loaded.assumed,
        adapter_of=loaded.adapter_of,
    )


def save_model(model: SentenceTransformer, folder: Path) -> None:
    """Save the model, and embeddings of fixed texts to verify it by."""
    enter_phase(Phase.SAVE)
    record_probes(model, folder / "verification.json")
    # The model card is written later; that of the library queries the Hub and quotes training texts.
    model.save_pretrained(str(folder / "model"), create_model_card=False, safe_serialization=True)
