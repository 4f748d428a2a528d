"""Adapter folders as models: the base model is loaded, and the adapter merged into it."""

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
    """Where an adapter is, and its base model: a folder, or a Hub id with an optional `@revision`."""

    path: str
    revision: str | None
    base: str
    has_modules: bool


def find_adapter(path: str, revision: str | None, subject: str) -> Adapter | None:
    """The adapter at this path, in a folder or on the Hub; None if it is a full model.

    Raises:
        DataError: it does not name its base model.
        NotFound: its base model does not exist.
    """
    file = find_adapter_config_file(path, revision=revision)
    if file is None:
        return None
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise DataError(
            f"{subject}: this is an adapter, and its adapter_config.json has no base_model_name_or_path; add it"
        )
    if not Path(base).is_dir() and not (is_hub_id(base) and base.count("/") <= 1):
        raise NotFound(
            f"{subject}: this is an adapter of {base}, which is not a folder here; copy that model there, or set "
            "base_model_name_or_path in adapter_config.json to where it is"
        )
    pinned = f"{base}@{config['revision']}" if config.get("revision") and not Path(base).is_dir() else base
    return Adapter(path, revision, pinned, load_file_path(path, "modules.json", revision=revision) is not None)


def merge(
    adapter: Adapter,
    load: Callable[[str], SentenceTransformer],
    load_base: Callable[[], SentenceTransformer],
    subject: str,
) -> SentenceTransformer:
    """The base model with the adapter merged into its weights. `load` uses the library, `load_base` loads as any model.

    Raises:
        DataError: the adapter does not fit its base model, or is of a kind that cannot be merged.
    """
    base = load_base()
    backbone = _merge_backbone(base.transformers_model, adapter, subject)
    if not adapter.has_modules:
        return base
    # Saved by Sentence Transformers: with its own pooling, prompts and tokenizer.
    model = load(adapter.path)
    transformer: Any = model[0]
    transformer.model = backbone
    return model


def _merge_backbone(backbone: Any, adapter: Adapter, subject: str) -> PreTrainedModel:
    if backbone is None:
        raise DataError(
            f"{subject}: this is an adapter of {adapter.base}, which is not a transformer; use a full model"
        )
    with warnings.catch_warnings():
        # Otherwise weights missing from the adapter's file would keep their random initialization.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            peft_model = PeftModel.from_pretrained(backbone, adapter.path, revision=adapter.revision)
            merged: PreTrainedModel = peft_model.merge_and_unload(safe_merge=True)
        except (Warning, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{subject}: the adapter cannot be merged into {adapter.base}: {reason}; use the base model it was "
                "trained on, or merge it where it was trained"
            ) from error
    return merged.requires_grad_(True)
