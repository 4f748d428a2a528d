"""Whether the activations of a whole batch fit into memory: measured on one text, extrapolated to the largest batch."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_layers import GradientCheckpointingLayer

from mnrl_job.batching.planning import Plan
from mnrl_job.embedding.device_memory import free_gpu_bytes
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.embedding.rank_slice import rank_slice
from mnrl_job.embedding.tokens import Features
from mnrl_job.errors import SettingsError
from mnrl_job.system.machine import free_memory
from mnrl_job.training.collator import ChunkedCollator, TokenCollator
from mnrl_job.training.shard_collator import ShardCollator

# Fraction of the free memory that activations may take: other things grow too, and a CPU's memory has other users.
GPU_FRACTION = 0.8
HOST_FRACTION = 0.5
# Gradients and the two moments of AdamW, all in fp32.
TRAINING_BYTES_PER_WEIGHT = 12
# Upper bound of padded tokens per token.
MAX_PADDING_RATIO = 1.2
# Rows of the plan whose tokens are counted.
SAMPLED_ROWS = 10_000
ROWS_PER_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class RandomState:
    """torch's random state before a step, so that a retry draws the same dropout: of the CPU and of any GPU.

    That of a GPU is a seed and an offset on the host: no synchronization.
    """

    cpu: torch.Tensor
    gpu: torch.Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, device)


def activation_token_budget(
    model: SentenceTransformer, collate: TokenCollator | ShardCollator, plan: Plan, ranks: int
) -> float:
    """Number of padded tokens whose activations a rank can keep; infinity if those of every batch fit.

    Called under the autocast of training. If not all fit, a CPU keeps none, since its memory has other users.
    """
    try:
        budget = free_bytes(model, ranks) / bytes_per_token(model, collate)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0
    if budget >= MAX_PADDING_RATIO * max_tokens_per_rank(collate, plan, ranks):
        return math.inf
    return max(budget, 0) if model.device.type == "cuda" else 0


def describe_reduction(token_budget: float, sub_chunks: int) -> str:
    """How training continues with less memory, for the log."""
    if sub_chunks > 1:
        return f"enabling activation recomputation; splitting chunks in {sub_chunks}"
    if token_budget:
        return f"enabling activation recomputation beyond {token_budget:.0f} tokens per batch"
    return "enabling activation recomputation"


def checkpoint_layers(model: SentenceTransformer) -> None:
    """Enable gradient checkpointing: keep only the input of each layer and recompute the rest (arXiv 1604.06174).

    Raises:
        SettingsError: the model has no layers that support it.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not any(layer.gradient_checkpointing for layer in layers):
        raise SettingsError("MNRL_GRADIENT_CHECKPOINTING=true: this model has no layers that support it; unset it")


def max_tokens_per_rank(collate: TokenCollator | ShardCollator, plan: Plan, ranks: int) -> int:
    """Tokens of the largest slice of a batch, in the steps of a long plan whose texts have the most bytes.

    Of prepared tokens it is known, for the next lower power of two of ranks.
    """
    if isinstance(collate, ShardCollator):
        largest = collate.files.shards.largest_slices
        return largest[min(ranks.bit_length(), len(largest)) - 1]
    slices = [rank_slice(plan.shape[1], rank, ranks) for rank in range(ranks)]
    bytes_of_row = collate.bytes_of_rows()
    blocks = np.array_split(plan, math.ceil(plan.size / ROWS_PER_BLOCK))
    bytes_of_step = np.concatenate([bytes_of_row[block].sum(axis=1) for block in blocks])
    longest = np.argsort(-bytes_of_step, kind="stable")[: max(1, SAMPLED_ROWS // plan.shape[1])]
    return max(collate.count_tokens(plan[step][rows]) for step in longest for rows in slices)


def bytes_per_token(model: SentenceTransformer, collate: ChunkedCollator) -> float:
    """Bytes saved for the backward pass per token of the longest text, since attention grows with its square.

    Measured as the difference between two copies of the text and one, so that tensors shared by all texts (weights cast
    to bf16) do not count. A short text is added, as in a batch: with padding, attention takes another code path.
    """
    shortest, longest = collate.extremes
    input_format, _ = collate.formats[0]
    batches = ([shortest, *[longest] * copies] for copies in (1, 2))
    one, two = (saved_bytes(model, input_format.features(batch, len(longest))) for batch in batches)
    return (two - one) / len(longest)


def saved_bytes(model: SentenceTransformer, features: Features) -> int:
    """Bytes that a forward pass saves for the backward pass. The random state is restored afterwards."""
    sizes: dict[int, int] = {}
    gpus = [model.device] if model.device.type == "cuda" else []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(gpus), saved_tensors_hooks(record, lambda tensor: tensor):
        embeddings = embed(model, send_to_device(features, model.device))
    del embeddings
    return sum(sizes.values())


def free_bytes(model: SentenceTransformer, ranks: int) -> int:
    """Bytes of the memory free now that the activations of a rank may take."""
    reserved = TRAINING_BYTES_PER_WEIGHT * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if model.device.type == "cuda":
        return int(GPU_FRACTION * (free_gpu_bytes(model.device) - reserved))
    return int(HOST_FRACTION * (free_memory() / ranks - reserved))
