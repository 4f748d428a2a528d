"""Whether a model's weights are those of its files: randomly initialized weights must never be published."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import modeling_utils

from mnrl_job.errors import DataError

# Sentence Transformers reads the last layer; poolers are usually not part of the embedding.
POOLER = re.compile(r"(^|\.)pooler\.")
LAYER_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")
REMEDY = "use the model as it was published, with all its files"


@contextmanager
def verified_loading(subject: str) -> Iterator[list[str]]:
    """Refuse loading problems that transformers would only print; yields the pooler weights that were in no file.

    Raises:
        DataError: weights are missing from the files, or weights in the files do not fit the model.
    """
    poolers: list[str] = []

    def check(model: nn.Module, *_: Any, loading_info: Any, **__: Any) -> None:
        poolers.extend(name for name in loading_info.missing_keys if POOLER.search(name))
        _refuse_problems(model, loading_info, subject)

    library = vars(modeling_utils)
    original = library["log_state_dict_report"]
    library["log_state_dict_report"] = check
    try:
        yield poolers
    finally:
        library["log_state_dict_report"] = original


def check_weights(model: SentenceTransformer, poolers: list[str], subject: str) -> None:
    """Check that all weights are finite, and that no randomly initialized pooler is used.

    Raises:
        DataError: naming the first invalid weight.
    """
    modalities = getattr(model[0], "modality_config", {})
    outputs = [modality["method_output_name"] for modality in modalities.values()]
    if poolers and "pooler_output" in outputs:
        raise DataError(f"{subject}: its files lack the weight {min(poolers)}, which its embeddings need; {REMEDY}")
    named = list(model.named_parameters())
    if not named or bool(torch.stack([_is_finite(weight) for _, weight in named]).all()):
        return
    name = next(name for name, weight in named if not _is_finite(weight))
    raise DataError(f"{subject}: its weight {name} contains NaN or infinity; use another copy of the model")


def _is_finite(weight: torch.Tensor) -> torch.Tensor:
    """Shape (), on the weight's device, without synchronizing."""
    return weight.detach().isfinite().all()


def _refuse_problems(model: nn.Module, info: Any, subject: str) -> None:
    problems = [*info.error_msgs, *info.conversion_errors.values()]
    if problems:
        raise DataError(f"{subject}: {' '.join(problems[0].split())}; {REMEDY}")
    if info.mismatched_keys:
        name, actual, expected = min(info.mismatched_keys)
        raise DataError(
            f"{subject}: the weight {name} has the shape {tuple(actual)}, but config.json defines {tuple(expected)}; "
            f"{REMEDY}"
        )
    missing = sorted(name for name in info.missing_keys if not POOLER.search(name))
    if missing:
        count = len(model.state_dict())
        raise DataError(
            f"{subject}: its files lack {len(missing)} of {count} weights, the first is {missing[0]}"
            f"{_missing_reason(model, missing, info.unexpected_keys)}"
        )
    if unknown := list(_unknown_layers(model, info.unexpected_keys)):
        raise DataError(
            f"{subject}: its files contain {len(unknown)} weights of layers that config.json does not define, the "
            f"first is {unknown[0]}; they would be ignored; {REMEDY}"
        )


def _missing_reason(model: nn.Module, missing: list[str], unexpected: Iterable[str]) -> str:
    for name in missing:
        for other in sorted(unexpected):
            if other.endswith(f".{name}"):
                prefix = other.removesuffix(name)
                return (
                    f", stored as {other}, as wrapped or compiled models are saved; remove the prefix {prefix!r} from "
                    "the names, or save the wrapped model"
                )
    if getattr(getattr(model, "config", None), "auto_map", None):
        return "; it requires custom code (auto_map in config.json), which is never run; use another model"
    return f"; they would be randomly initialized; {REMEDY}"


def _unknown_layers(model: nn.Module, unexpected: Iterable[str]) -> Iterator[str]:
    """Weights of a layer like the model's: an additional layer, or a bias that the model does not have.

    Heads of other tasks are not among the layers, and old buffers are named neither weight nor bias.
    """
    patterns = {_pattern(name) for name in model.state_dict()}
    for name in sorted(unexpected):
        pattern = _pattern(name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}."))
        layer, _, last = pattern.rpartition(".")
        if pattern in patterns or (last in ("weight", "bias") and f"{layer}.weight" in patterns):
            yield name


def _pattern(name: str) -> str:
    """A weight's name without layer indices."""
    return LAYER_INDEX.sub("*", name)
