"""The folder of an adapter as a model: its base is loaded, and the adapter merged into it."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import load_file_path
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from mnrl_job.errors import DataError, NotFound
from mnrl_job.storage import is_hub_id


@dataclass(frozen=True, slots=True)
class Adapter:
    """Where an adapter is, and the model it was trained on: a folder, or a Hub id with an optional `@revision`."""

    path: str
    revision: str | None
    base: str
    has_modules: bool


def find_adapter(path: str, revision: str | None, told: str) -> Adapter | None:
    """Whether a model, in a folder or on the Hub, is an adapter.

    Raises:
        DataError: it does not say of what.
        NotFound: its base is not there.
    """
    file = find_adapter_config_file(path, revision=revision)
    if file is None:
        return None
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise DataError(f"{told}: it is an adapter, and its adapter_config.json has no base_model_name_or_path; add it")
    if not Path(base).is_dir() and not (is_hub_id(base) and base.count("/") <= 1):
        raise NotFound(
            f"{told}: it is an adapter of {base}, which is no folder here; put that model there, or name another "
            "place as base_model_name_or_path in adapter_config.json"
        )
    pinned = f"{base}@{config['revision']}" if config.get("revision") and not Path(base).is_dir() else base
    return Adapter(path, revision, pinned, load_file_path(path, "modules.json", revision=revision) is not None)


def merge(
    adapter: Adapter,
    load: Callable[[str], SentenceTransformer],
    load_base: Callable[[], SentenceTransformer],
    told: str,
) -> SentenceTransformer:
    """The base with the adapter merged into its weights, a plain model.

    Args:
        adapter: what `find_adapter` found.
        load: loads a model by the library.
        load_base: loads the base, as any base model is.
        told: how a message begins.

    Raises:
        DataError: the adapter does not fit its base, or is of a kind that cannot be merged.
    """
    base = load_base()
    backbone = _merged(base.transformers_model, adapter, told)
    if not adapter.has_modules:
        return base
    # As Sentence Transformers saves it: with pooling, prompts and a tokenizer of its own.
    outer = load(adapter.path)
    first: Any = outer[0]
    first.model = backbone
    return outer


def _merged(backbone: Any, adapter: Adapter, told: str) -> PreTrainedModel:
    if backbone is None:
        raise DataError(f"{told}: it is an adapter of {adapter.base}, which is no transformer; give a whole model")
    with warnings.catch_warnings():
        # Weights that the adapter's file lacks would stay as they were made up.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            tuned = PeftModel.from_pretrained(backbone, adapter.path, revision=adapter.revision)
            plain: PreTrainedModel = tuned.merge_and_unload(safe_merge=True)
        except (Warning, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{told}: its adapter cannot be merged into {adapter.base}: {reason}; give the base it was trained "
                "on, or merge it where it was trained"
            ) from error
    return plain.requires_grad_(True)
