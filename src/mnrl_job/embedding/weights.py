"""Are a model's weights those of its files? What a library makes up for missing ones must never be published."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import modeling_utils

from mnrl_job.errors import DataError

# Sentence Transformers reads the last layer; what a family computes from it beside is no part of the embedding.
POOLER = re.compile(r"(^|\.)pooler\.")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
AGAIN = "give the model as it was published, with all its files"


@dataclass(slots=True)
class Loading:
    """What transformers tells of a loading. `poolers` are the weights of poolers that were in no file."""

    poolers: list[str] = field(default_factory=list)


@contextmanager
def watched(told: str) -> Iterator[Loading]:
    """Inside, transformers reports each loading to us, who refuse what it would go on with, and prints no table.

    Args:
        told: how a message begins.

    Raises:
        DataError: weights are missing from the files, or stand there and find no place in the model.
    """
    loading = Loading()

    def look(model: nn.Module, *_: Any, loading_info: Any, **__: Any) -> None:
        loading.poolers += [name for name in loading_info.missing_keys if POOLER.search(name)]
        _refuse(model, loading_info, told)

    library = vars(modeling_utils)
    before = library["log_state_dict_report"]
    library["log_state_dict_report"] = look
    try:
        yield loading
    finally:
        library["log_state_dict_report"] = before


def check_weights(model: SentenceTransformer, loading: Loading, told: str) -> None:
    """Every weight is a number, and a pooler that was made up is not asked.

    Raises:
        DataError: naming the first weight that is wrong.
    """
    modalities = getattr(model[0], "modality_config", {})
    if loading.poolers and "pooler_output" in [one["method_output_name"] for one in modalities.values()]:
        raise DataError(f"{told}: its files lack the weight {min(loading.poolers)}, which its embeddings need; {AGAIN}")
    named = list(model.named_parameters())
    if not named or bool(torch.stack([_finite(weight) for _, weight in named]).all()):
        return
    name = next(name for name, weight in named if not _finite(weight))
    raise DataError(f"{told}: its weight {name} holds NaN or infinite numbers; give a model that was saved intact")


def _finite(weight: torch.Tensor) -> torch.Tensor:
    """Whether all are numbers, shape (), on the weight's device, which need not be waited for."""
    return weight.detach().isfinite().all()


def _refuse(model: nn.Module, info: Any, told: str) -> None:
    """Raise for whatever transformers found, the gravest first."""
    problems = [*info.error_msgs, *info.conversion_errors.values()]
    if problems:
        raise DataError(f"{told}: {' '.join(problems[0].split())}; {AGAIN}")
    if info.mismatched_keys:
        name, found, wanted = min(info.mismatched_keys)
        raise DataError(
            f"{told}: the weight {name} has the shape {tuple(found)}, but config.json makes it {tuple(wanted)}; {AGAIN}"
        )
    missing = sorted(name for name in info.missing_keys if not POOLER.search(name))
    if missing:
        count = len(model.state_dict())
        raise DataError(
            f"{told}: its files lack {len(missing)} of {count} weights, the first is {missing[0]}"
            f"{_why(model, missing, info.unexpected_keys)}"
        )
    if strangers := list(_strangers(model, info.unexpected_keys)):
        raise DataError(
            f"{told}: its files hold {len(strangers)} weights that config.json has no layer for, the first is "
            f"{strangers[0]}; they would be left out; {AGAIN}"
        )


def _why(model: nn.Module, missing: list[str], unexpected: Iterable[str]) -> str:
    """What the names in the files say about why weights are missing, and what to do."""
    for name in missing:
        for other in sorted(unexpected):
            if other.endswith(f".{name}"):
                prefix = other.removesuffix(name)
                return (
                    f", which stands there as {other}, as wrapped or compiled models are saved; take the prefix "
                    f"{prefix!r} off the names, or save the model that is inside"
                )
    if getattr(getattr(model, "config", None), "auto_map", None):
        return "; it needs code of its own (auto_map in config.json), which is not run; give a model without"
    return f"; they would be made up; {AGAIN}"


def _strangers(model: nn.Module, unexpected: Iterable[str]) -> Iterator[str]:
    """Weights that belong to a layer like one of the model's: one layer more, or a bias where there is none.

    Heads of other tasks stand beside the layers, and old buffers are called neither weight nor bias.
    """
    kinds = {_kind(name) for name in model.state_dict()}
    for name in sorted(unexpected):
        kind = _kind(name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}."))
        layer, _, last = kind.rpartition(".")
        if kind in kinds or (last in ("weight", "bias") and f"{layer}.weight" in kinds):
            yield name


def _kind(name: str) -> str:
    """A weight's name without the numbers of layers."""
    return NUMBER.sub("*", name)
