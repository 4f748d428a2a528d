"""LoRA: beside each linear layer of the backbone a product of two thin matrices is trained (arXiv 2106.09685).

W x becomes W x + (alpha / r) B A x, with B = 0 to begin with, so that an adapter not yet trained changes nothing. All
other weights stand still. They are kept in the precision of the arithmetic, in half of the memory; so the trained
adapter is merged into weights that are read anew.
"""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedModel

from mnrl_job.embedding.precision import DTYPES, Precision
from mnrl_job.errors import SettingsError
from mnrl_job.storage import split_revision
from mnrl_job.training.fsdp import full_tensor

# alpha / r, as most recipes have it: the learning rate that suits one rank then suits others.
SCALE = 2
NAME = "default"
ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
# Many backbones have a pooler beside their layers; Sentence Transformers reads the layers.
UNUSED = r".*\bpooler\b.*"


def adapt(model: SentenceTransformer, rank: int, seed: int, precision: Precision) -> None:
    """Put an adapter beside every linear layer of the backbone; from now on only adapters are trained.

    Args:
        model: changed in place.
        rank: r, the rank of each product.
        seed: of A, which begins random.
        precision: what weights that stand still are rounded to, as autocast would do anew for each chunk and keep.

    Raises:
        SettingsError: the model has no such layers.
    """
    torch.manual_seed(seed)
    model.requires_grad_(False)
    layers = "all-linear"
    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=layers, exclude_modules=UNUSED)
    try:
        _inject(model, config)
    except ValueError as error:
        raise SettingsError(
            f"MNRL_LORA_RANK={rank}: this model has no linear layers of a transformer to adapt; leave it out"
        ) from error
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast sees to it
        elif isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(DTYPES[precision])


def merged(model: SentenceTransformer, fresh: SentenceTransformer) -> SentenceTransformer:
    """Add the adapter that `model` was trained with to the weights of `fresh`, the base model read anew.

    Returns:
        `fresh`, a plain model again.
    """
    tuner = _inject(fresh, _config(model))
    _copy(_gathered(model), fresh)
    tuner.merge_and_unload(safe_merge=True)
    return fresh


def write_adapter(model: SentenceTransformer, base: str, folder: Path) -> None:
    """Save the adapter as peft does, on the first rank; every rank must ask.

    Args:
        model: with an adapter.
        base: what the user calls the base model, with an optional `@revision`.
        folder: where to.
    """
    weights = _gathered(model)
    if not PartialState().is_main_process:
        return
    config = copy(_config(model))
    config.base_model_name_or_path, revision = split_revision(base)
    config.revision = revision or None
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def read_adapter(model: SentenceTransformer, folder: Path) -> None:
    """Give the adapter of `model` the weights that stand in a folder."""
    _copy(load_file(folder / WEIGHTS), model)


def _backbone(model: SentenceTransformer) -> PreTrainedModel:
    if not isinstance(model.transformers_model, PreTrainedModel):
        raise ValueError("not a transformer")
    return model.transformers_model


def _inject(model: SentenceTransformer, config: LoraConfig) -> LoraModel:
    return LoraModel(_backbone(model), config, NAME)


def _config(model: SentenceTransformer) -> LoraConfig:
    return cast("LoraConfig", _backbone(model).peft_config[NAME])


def _weights(model: SentenceTransformer) -> dict[str, nn.Parameter]:
    """A and B of each layer by the names they have in peft's files."""
    weights = _backbone(model).named_parameters()
    return {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": one for name, one in weights if ".lora_" in name}


def _gathered(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """The weights whole, in the processor's memory, also where ranks hold them in shares."""
    return {name: full_tensor(weight.detach()).cpu().contiguous() for name, weight in _weights(model).items()}


@torch.no_grad()
def _copy(weights: Mapping[str, torch.Tensor], model: SentenceTransformer) -> None:
    for name, weight in _weights(model).items():
        weight.copy_(weights[name])
