"""A model from a folder or from the Hub onto this worker's device, whole and sound, told how it is to be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer

from mnrl_job.config.settings import Settings
from mnrl_job.embedding.adapters import Adapter, find_adapter, merge
from mnrl_job.embedding.assumed import find_assumptions
from mnrl_job.embedding.load_errors import explain, is_fault_of_device, refuse_pointers
from mnrl_job.embedding.model_facts import Assumed
from mnrl_job.embedding.positions import cut_to_positions, set_max_tokens
from mnrl_job.embedding.prompts import Kind
from mnrl_job.embedding.vocabulary import check_vocabulary, ensure_padding
from mnrl_job.embedding.weights import check_weights, watched
from mnrl_job.errors import JobError, SettingsError
from mnrl_job.storage import is_remote, split_revision
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase

# Many large models are published in bf16, in which small steps of the optimizer would be rounded away.
FP32 = {"dtype": torch.float32}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, what its files left open, and of which model it is an adapter, if it was one."""

    model: SentenceTransformer
    assumed: Assumed
    adapter_of: str | None = None


def load_model(name: str, settings: Settings) -> Loaded:
    """Load the base model, to be used as the settings say: tokens it reads at most, prompts it puts before texts.

    Args:
        name: a folder, or a Hub id with an optional `@revision`.
        settings: the run's.

    Raises:
        JobError: it cannot be loaded, or is not whole; see `load`.
        SettingsError: texts are to be cut at more tokens than the model can take, vectors at more numbers than it has.
    """
    loaded = load(name, "MNRL_BASE_MODEL", settings.base_model)
    model = loaded.model
    check_dimensions(model, settings.matryoshka_dims)
    if settings.max_seq_length:
        set_max_tokens(model, settings.max_seq_length)
    prompts: dict[Kind, str | None] = {"query": settings.query_prompt, "document": settings.document_prompt}
    decided = [kind for kind, prompt in prompts.items() if prompt is not None]
    model.prompts.update({kind: prompts[kind] for kind in decided})
    return replace(loaded, assumed=find_assumptions(model, loaded.assumed.padding_token, decided))


def check_dimensions(model: SentenceTransformer, wanted: tuple[int, ...]) -> None:
    """Vectors can only become shorter than they are."""
    dimension = model.get_embedding_dimension()
    if wanted and dimension and wanted[0] > dimension:
        told = ",".join(map(str, wanted))
        raise SettingsError(
            f"MNRL_MATRYOSHKA_DIMS={told}: the model has {dimension} dimensions; give {dimension} or fewer"
        )


def warn_untrained_full_dim(model: SentenceTransformer, dimensions: tuple[int, ...]) -> None:
    """Warn where vectors are trained cut only: whole ones would be read by most users all the same."""
    whole = model.get_embedding_dimension()
    if dimensions and whole not in dimensions:
        told = ",".join(map(str, dimensions))
        warn(f"MNRL_MATRYOSHKA_DIMS={told}: whole vectors, of {whole} dimensions, are not trained; put {whole} first")


def load(name: str, variable: str, given: str = "") -> Loaded:
    """Load a model as it was published, in fp32, and see that nothing of it is missing or made up.

    Args:
        name: a folder, or a Hub id with an optional `@revision`.
        variable: the setting that names it.
        given: its name as the user gave it, where `name` may be our copy of what is on S3.

    Raises:
        JobError: it cannot be loaded, see `load_errors`.
        DataError: weights, vocabulary or numbers are not those of a whole model.
    """
    enter_phase(Phase.LOAD)
    shown = given if given and is_remote(given) else name
    told = f"{variable}: {shown}"
    path, revision = split_revision(name)
    adapter: Adapter | None = None
    with _explained(name, shown, variable), watched(told) as loading:
        refuse_pointers(Path(path), told)
        adapter = find_adapter(path, revision or None, told)
        if adapter is None:
            model = _by_library(path, revision)
        else:
            base = adapter.base
            load_base = lambda: load(base, f"{variable}: the base of the adapter {shown}").model  # noqa: E731
            model = merge(adapter, lambda path: _by_library(path, revision), load_base, told)
    check_weights(model, loading, told)
    check_vocabulary(model, told)
    padding = ensure_padding(model, told)
    pad_inputs(model)
    cut_to_positions(model, told)
    return Loaded(model, find_assumptions(model, padding), adapter.base if adapter else None)


def pad_inputs(model: SentenceTransformer) -> None:
    """Have texts padded for flash attention, too, which skips padding by itself.

    The library gives it all texts of a call in one row, which cannot be tokenised before, cut into chunks of like
    length, nor cut again where memory runs out. What is saved leaves it to the library as before.
    """
    for module in model.modules():
        if isinstance(module, Transformer):
            module.can_flatten_inputs = False


def _by_library(path: str, revision: str) -> SentenceTransformer:
    return SentenceTransformer(path, revision=revision or None, device=str(PartialState().device), model_kwargs=FP32)


@contextmanager
def _explained(name: str, shown: str, variable: str) -> Iterator[None]:
    """Errors of the libraries inside are told as ours."""
    is_folder = Path(name).is_dir()
    try:
        yield
    except Exception as error:
        if isinstance(error, JobError) or is_fault_of_device(error):
            raise
        found = explain(error, name, variable, is_folder)
        raise type(found)(str(found).replace(name, shown)) from error
