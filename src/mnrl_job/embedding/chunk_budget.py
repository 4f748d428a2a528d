"""How large a chunk may be: on a GPU it depends on the model, the multiprocessors and the free memory."""

from dataclasses import dataclass
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.chunks import ChunkBudget, default_chunk_budget
from mnrl_job.embedding.device_memory import free_gpu_bytes

# Host time to launch the kernels of one weight tensor, forward and backward: about five of six microseconds.
LAUNCH_SECONDS_PER_TENSOR = 30e-6
# bf16 operations per second that one multiprocessor reaches in practice; fp32 is slower and needs smaller chunks.
FLOPS_PER_MULTIPROCESSOR = 1.5e12
# A chunk has this many times the tokens that could be processed while its kernels are launched.
TIMES_OVERHEAD = 8
MIN_TOKENS, MAX_TOKENS = 2_048, 65_536
FREE_MEMORY_FRACTION = 0.25


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What determines a model's time and memory per token: parameters without embedding tables, hidden size, layers."""

    weights: int
    tensors: int
    width: int
    layers: int


def chunk_budget_for(
    model: SentenceTransformer, device: torch.device, rows: int | Literal["auto"] = "auto"
) -> ChunkBudget:
    """The budget of a chunk on this device; `rows` texts if the user set a number."""
    config = getattr(model.transformers_model, "config", None)
    if device.type != "cuda" or rows != "auto" or config is None:
        return default_chunk_budget(device, rows)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    weights = [weight for weight in model.parameters() if id(weight) not in tables]
    size = ModelSize(
        weights=sum(weight.numel() for weight in weights),
        tensors=len(weights),
        width=getattr(config, "hidden_size", None) or int(model.get_embedding_dimension() or 1),
        layers=getattr(config, "num_hidden_layers", None) or 1,
    )
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return gpu_chunk_budget(size, multiprocessors, free_gpu_bytes(device))


def gpu_chunk_budget(size: ModelSize, multiprocessors: int, free_bytes: int) -> ChunkBudget:
    """The chunk size that hides kernel launches and fits into a fraction of the memory.

    A token takes 6 operations per parameter, forward and backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1);
    its activations take 34 bytes per hidden unit and layer (Korthikanti et al. 2022, arXiv 2205.05198, equation 1,
    without the attention term, which is not kept).

    Tokens and rows are a power of two, so that small differences in free memory do not change results.
    """
    seconds_per_token = 6 * size.weights / (multiprocessors * FLOPS_PER_MULTIPROCESSOR)
    overhead = max(1, round(LAUNCH_SECONDS_PER_TENSOR * size.tensors / seconds_per_token))
    fitting = int(FREE_MEMORY_FRACTION * free_bytes / (34 * size.width * size.layers))
    tokens = max(MIN_TOKENS, min(TIMES_OVERHEAD * overhead, fitting, MAX_TOKENS))
    tokens = 2 ** (tokens.bit_length() - 1)
    return ChunkBudget(tokens, tokens, min(overhead, tokens))
