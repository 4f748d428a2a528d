"""Load a model from a folder or the Hub onto this worker's device, verify it, and configure it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer

from mnrl_job.embedding.adapters import Adapter, find_adapter, merge
from mnrl_job.embedding.assumptions import find_assumptions
from mnrl_job.embedding.load_errors import explain, is_fault_of_device, refuse_pointers
from mnrl_job.embedding.model_facts import Assumptions
from mnrl_job.embedding.positions import limit_to_positions, set_max_tokens
from mnrl_job.embedding.prompts import Kind
from mnrl_job.embedding.vocabulary import check_vocabulary, ensure_padding
from mnrl_job.embedding.weights import check_weights, verified_loading
from mnrl_job.errors import JobError, SettingsError
from mnrl_job.storage import is_remote, split_revision
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase

# Many large models are published in bf16, in which small optimizer steps are rounded away.
FP32 = {"dtype": torch.float32}


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to configure a model after loading; None keeps the model's own. The largest of `matryoshka_dims` is first."""

    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    matryoshka_dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, the assumptions made about it, and its base model if it was an adapter."""

    model: SentenceTransformer
    assumed: Assumptions
    adapter_of: str | None = None


def load_model(path: str, options: ModelOptions, name: str = "") -> Loaded:
    """Load and configure the base model from `path`, as for `load`; `name` is `MNRL_BASE_MODEL` as the user gave it.

    Raises:
        JobError: it cannot be loaded or is incomplete; see `load`.
        SettingsError: the maximum length or the dimensions exceed the model's.
    """
    loaded = load(path, "MNRL_BASE_MODEL", name)
    model = loaded.model
    check_dimensions(model, options.matryoshka_dims)
    if options.max_seq_length:
        set_max_tokens(model, options.max_seq_length)
    prompts: dict[Kind, str | None] = {"query": options.query_prompt, "document": options.document_prompt}
    configured = [kind for kind, prompt in prompts.items() if prompt is not None]
    model.prompts.update({kind: prompts[kind] for kind in configured})
    return replace(loaded, assumed=find_assumptions(model, loaded.assumed.padding_token, configured))


def check_dimensions(model: SentenceTransformer, matryoshka_dims: tuple[int, ...]) -> None:
    """Embeddings can only be truncated to fewer dimensions.

    Raises:
        SettingsError: the largest of the dimensions exceeds the model's.
    """
    dimension = model.get_embedding_dimension()
    if matryoshka_dims and dimension and matryoshka_dims[0] > dimension:
        value = ",".join(map(str, matryoshka_dims))
        raise SettingsError(
            f"MNRL_MATRYOSHKA_DIMS={value}: the model has {dimension} dimensions; use {dimension} or fewer"
        )


def warn_untrained_full_dim(model: SentenceTransformer, matryoshka_dims: tuple[int, ...]) -> None:
    """Warn if full embeddings are not trained, since most users will use these."""
    full = model.get_embedding_dimension()
    if matryoshka_dims and full not in matryoshka_dims:
        value = ",".join(map(str, matryoshka_dims))
        warn(f"MNRL_MATRYOSHKA_DIMS={value}: full embeddings of {full} dimensions are not trained; put {full} first")


def load(path: str, variable: str, name: str = "") -> Loaded:
    """Load a model as it was published, in fp32, and verify that nothing is missing or randomly initialized.

    `path` is a folder, or a Hub id with an optional `@revision`; if it is a local copy of an S3 prefix, `name` is that.

    Raises:
        JobError: it cannot be loaded, see `load_errors`.
        DataError: weights or vocabulary are incomplete, or weights are not finite.
    """
    enter_phase(Phase.LOAD)
    shown = name if name and is_remote(name) else path
    subject = f"{variable}: {shown}"
    repository, revision = split_revision(path)
    adapter: Adapter | None = None
    with _explained(path, shown, variable), verified_loading(subject) as poolers:
        refuse_pointers(Path(repository), subject)
        adapter = find_adapter(repository, revision or None, subject)
        if adapter is None:
            model = _load_with_library(repository, revision)
        else:
            base = adapter.base
            load_base = lambda: load(base, f"{variable}: base model of the adapter {shown}").model  # noqa: E731
            model = merge(adapter, lambda path: _load_with_library(path, revision), load_base, subject)
    check_weights(model, poolers, subject)
    check_vocabulary(model, subject)
    padding_token = ensure_padding(model, subject)
    pad_inputs(model)
    limit_to_positions(model, subject)
    return Loaded(model, find_assumptions(model, padding_token), adapter.base if adapter else None)


def pad_inputs(model: SentenceTransformer) -> None:
    """Pad texts for flash attention too.

    The library passes it all texts of a call in one row, which cannot be pre-tokenized, chunked by length, nor split
    when memory runs out. The saved model is not affected.
    """
    for module in model.modules():
        if isinstance(module, Transformer):
            module.can_flatten_inputs = False


def _load_with_library(path: str, revision: str) -> SentenceTransformer:
    return SentenceTransformer(path, revision=revision or None, device=str(PartialState().device), model_kwargs=FP32)


@contextmanager
def _explained(path: str, shown: str, variable: str) -> Iterator[None]:
    is_folder = Path(path).is_dir()
    try:
        yield
    except Exception as error:
        if isinstance(error, JobError) or is_fault_of_device(error):
            raise
        explained = explain(error, path, variable, is_folder)
        raise type(explained)(str(explained).replace(path, shown)) from error
