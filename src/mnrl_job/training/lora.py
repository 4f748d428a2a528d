"""LoRA: a product of two low-rank matrices is trained beside each linear layer of the backbone (arXiv 2106.09685).

W x becomes W x + (alpha / r) B A x, with B = 0 initially, so that an untrained adapter changes nothing. All other
weights are frozen, and kept in the precision of the forward pass at half the memory; so the trained adapter is merged
into a freshly loaded base model.
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

# alpha / r, as in most recipes: a learning rate then suits any rank.
ALPHA_PER_RANK = 2
NAME = "default"
ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
# Poolers of the backbone are not part of the embedding.
UNUSED = r".*\bpooler\b.*"


def add_adapter(model: SentenceTransformer, rank: int, seed: int, precision: Precision) -> None:
    """Add an adapter of rank r to every linear layer of the backbone, in place, and freeze all other weights.

    The seed is of A, which is random initially. Frozen weights are cast to `precision`; autocast would cast them anew
    for each chunk and keep the copies.

    Raises:
        SettingsError: the model has no such layers.
    """
    torch.manual_seed(seed)
    model.requires_grad_(False)
    layers = "all-linear"
    config = LoraConfig(r=rank, lora_alpha=ALPHA_PER_RANK * rank, target_modules=layers, exclude_modules=UNUSED)
    try:
        _inject(model, config)
    except ValueError as error:
        raise SettingsError(
            f"MNRL_LORA_RANK={rank}: this model has no linear transformer layers to adapt; unset it"
        ) from error
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does
        elif isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(DTYPES[precision])


def merged(model: SentenceTransformer, base: SentenceTransformer) -> SentenceTransformer:
    """Merge the trained adapter of `model` into `base`, a freshly loaded base model, and return that."""
    lora = _inject(base, _config(model))
    _copy(_full_weights(model), base)
    lora.merge_and_unload(safe_merge=True)
    return base


def adapter_outputs(model: SentenceTransformer) -> dict[str, nn.Parameter]:
    """The matrices B: multiplying them multiplies what the adapter adds to the base weights."""
    return {name: weight for name, weight in model.named_parameters() if "lora_B" in name}


@torch.no_grad()
def scale_adapter(model: SentenceTransformer, factor: float) -> None:
    """Multiply what the adapter adds to the base weights: weight interpolation for LoRA."""
    for weight in adapter_outputs(model).values():
        weight.mul_(factor)


def write_adapter(model: SentenceTransformer, base: str, folder: Path) -> None:
    """Save the adapter in peft's format, on the first rank; `base` is the user's name of the base model. Collective."""
    weights = _full_weights(model)
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
    """Load the weights of the adapter of `model` from a folder."""
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
    """A and B of each layer, by their names in peft's files."""
    parameters = _backbone(model).named_parameters()
    return {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": weight for name, weight in parameters if ".lora_" in name
    }


def _full_weights(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """The weights on the host, gathered if they are sharded."""
    return {name: full_tensor(weight.detach()).cpu().contiguous() for name, weight in _weights(model).items()}


@torch.no_grad()
def _copy(weights: Mapping[str, torch.Tensor], model: SentenceTransformer) -> None:
    for name, weight in _weights(model).items():
        weight.copy_(weights[name])
