"""A model from a folder or from the Hub onto this worker's device, told how it is to be used."""

from pathlib import Path

import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.unloadable import explain, is_fault_of_device
from mnrl_job.errors import SettingsError
from mnrl_job.runtime.heartbeat import begin
from mnrl_job.runtime.logs import warn
from mnrl_job.runtime.storage import split_revision
from mnrl_job.runtime.watch import LOAD
from mnrl_job.settings import Settings

# Many large models are published in bf16, in which small steps of the optimizer would be rounded away.
FP32 = {"dtype": torch.float32}


def load_model(name: str, settings: Settings) -> SentenceTransformer:
    """Load the base model, to be used as the settings say: tokens it reads at most, prompts it puts before texts.

    Args:
        name: a folder, or a Hub id with an optional `@revision`.
        settings: the run's.

    Raises:
        JobError: it cannot be loaded, see `unloadable`.
        SettingsError: texts are to be cut at more tokens than the model can take, vectors at more numbers than it has.
    """
    model = load(name, "MNRL_BASE_MODEL")
    check_dimensions(model, settings.matryoshka_dims)
    if settings.max_seq_length:
        longest = getattr(getattr(model.transformers_model, "config", None), "max_position_embeddings", None)
        if longest and settings.max_seq_length > longest > 0:
            raise SettingsError(f"MNRL_MAX_SEQ_LENGTH={settings.max_seq_length}: the model takes {longest} at most")
        model.max_seq_length = settings.max_seq_length
    given = {"query": settings.query_prompt, "document": settings.document_prompt}
    model.prompts.update({kind: prompt for kind, prompt in given.items() if prompt is not None})
    return model


def check_dimensions(model: SentenceTransformer, wanted: tuple[int, ...]) -> None:
    """Vectors can only become shorter than they are."""
    dimension = model.get_embedding_dimension()
    if wanted and dimension and wanted[0] > dimension:
        told = ",".join(map(str, wanted))
        raise SettingsError(
            f"MNRL_MATRYOSHKA_DIMS={told}: the model has {dimension} dimensions; give {dimension} or fewer"
        )


def tell_untrained(model: SentenceTransformer, dimensions: tuple[int, ...]) -> None:
    """Warn where vectors are trained cut only: whole ones would be read by most users all the same."""
    whole = model.get_embedding_dimension()
    if dimensions and whole not in dimensions:
        told = ",".join(map(str, dimensions))
        warn(f"MNRL_MATRYOSHKA_DIMS={told}: whole vectors, of {whole} dimensions, are not trained; put {whole} first")


def load(name: str, variable: str) -> SentenceTransformer:
    """Load a model as it was published, in fp32.

    Args:
        name: a folder, or a Hub id with an optional `@revision`.
        variable: the setting that names it.

    Raises:
        JobError: it cannot be loaded, see `unloadable`.
    """
    is_folder = Path(name).is_dir()
    begin(LOAD)
    path, revision = split_revision(name)
    try:
        return SentenceTransformer(
            path, revision=revision or None, device=str(PartialState().device), model_kwargs=FP32
        )
    except Exception as error:
        if is_fault_of_device(error):
            raise
        raise explain(error, name, variable, is_folder) from error
