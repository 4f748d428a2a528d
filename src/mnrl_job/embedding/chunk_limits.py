"""How large a chunk is to be: on a GPU it follows the model, the processors and the memory that is free."""

from dataclasses import dataclass
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.chunks import ChunkBudget, chunk_limit
from mnrl_job.embedding.device_memory import free_gpu_bytes

# What a GPU's host needs to start the kernels of one weight, forward and backward: about five of six microseconds.
SECONDS_TO_LAUNCH = 30e-6
# Operations of bf16 a second that one multiprocessor reaches in practice; fp32 is slower, which asks for less.
OPERATIONS_OF_A_PROCESSOR = 1.5e12
# So much of the time may go into launching: a chunk has this many times the tokens that launching costs.
TIMES_OVERHEAD = 8
SMALLEST, LARGEST = 2_048, 65_536
SHARE_OF_FREE_MEMORY = 0.25


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What decides how long a model takes for a token, and how much memory.

    Attributes:
        weights: numbers in the weights, without tables that are only looked up.
        tensors: how many weights there are.
        width: hidden units of a token.
        layers: of the backbone.
    """

    weights: int
    tensors: int
    width: int
    layers: int


def limit_for(model: SentenceTransformer, device: torch.device, rows: int | Literal["auto"] = "auto") -> ChunkBudget:
    """What is embedded at once on this device; as many texts as somebody says, where somebody does."""
    config = getattr(model.transformers_model, "config", None)
    if device.type != "cuda" or rows != "auto" or config is None:
        return chunk_limit(device, rows)
    tables = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Embedding)}
    weights = [each for each in model.parameters() if id(each) not in tables]
    size = ModelSize(
        weights=sum(each.numel() for each in weights),
        tensors=len(weights),
        width=getattr(config, "hidden_size", None) or int(model.get_embedding_dimension() or 1),
        layers=getattr(config, "num_hidden_layers", None) or 1,
    )
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return gpu_limit(size, processors, free_gpu_bytes(device))


def gpu_limit(size: ModelSize, processors: int, free_bytes: int) -> ChunkBudget:
    """The chunk that hides the launching of its kernels and fits into a part of the memory.

    A token takes 6 operations for each number in the weights, forward and backward (Kaplan et al. 2020,
    arXiv 2001.08361, section 2.1); its activations take 34 bytes for each hidden unit of each layer (Korthikanti et
    al. 2022, arXiv 2205.05198, equation 1, without the part of attention, which is not kept).

    Args:
        size: of the model.
        processors: multiprocessors of the GPU.
        free_bytes: of its memory.

    Returns:
        Tokens and rows are a power of two, so that a little more or less of free memory changes no result.
    """
    seconds_of_a_token = 6 * size.weights / (processors * OPERATIONS_OF_A_PROCESSOR)
    overhead = max(1, round(SECONDS_TO_LAUNCH * size.tensors / seconds_of_a_token))
    fitting = int(SHARE_OF_FREE_MEMORY * free_bytes / (34 * size.width * size.layers))
    tokens = max(SMALLEST, min(TIMES_OVERHEAD * overhead, fitting, LARGEST))
    tokens = 2 ** (tokens.bit_length() - 1)
    return ChunkBudget(tokens, tokens, min(overhead, tokens))
