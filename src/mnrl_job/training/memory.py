"""Do the activations of a whole batch fit into memory? Measured on one text, counted for the largest batch."""

import math
from collections.abc import Sequence
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
from mnrl_job.embedding.tokens import Features, Tokens
from mnrl_job.errors import SettingsError
from mnrl_job.system.machine import free_memory
from mnrl_job.training.collator import TokenCollator

# What a batch may take of the memory that is free: other things grow too, and on a CPU others live there.
SHARE_OF_GPU = 0.8
SHARE_OF_MACHINE = 0.5
# Gradients and the two moments of AdamW come on top of the weights, all in fp32.
BYTES_OF_A_WEIGHT = 12
# Tokens with padding for each real one, at most.
PADDING = 1.2
ROWS_COUNTED = 1_000_000


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where torch's generators stood before a step, so that a second try draws the same dropout as the first.

    Attributes:
        of_cpu: state of the CPU's generator.
        of_gpu: that of this rank's GPU; None where it has none. Neither waits for the GPU: its generator is a seed and
            an offset, which the CPU holds.
    """

    of_cpu: torch.Tensor
    of_gpu: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.of_cpu)
        if self.of_gpu is not None:
            torch.cuda.set_rng_state(self.of_gpu, device)


def tokens_that_fit(model: SentenceTransformer, collate: TokenCollator, plan: Plan, ranks: int) -> float:
    """Of how many tokens with padding a rank can keep the activations; infinity if all of each batch.

    Called under the precision of training. Where not all fit, a CPU keeps none: its memory has other users.
    """
    try:
        room = free_bytes(model, ranks) / bytes_for_a_token(model, collate.columns)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0
    if room >= PADDING * most_tokens(collate, plan, ranks):
        return math.inf
    return max(room, 0) if model.device.type == "cuda" else 0


def describe_reduction(kept_tokens: float, sub_chunks: int) -> str:
    """How training goes on with less memory: of how many tokens activations are kept, and chunks split in how many."""
    if sub_chunks > 1:
        return f"splitting chunks in {sub_chunks} and recomputing all activations"
    if kept_tokens:
        return f"enabling activation recomputation for all but {kept_tokens:.0f} tokens of a batch"
    return "enabling activation recomputation for whole batches"


def checkpoint_layers(model: SentenceTransformer) -> None:
    """From now on keep only the input of each layer, and compute the layer again for its gradient (arXiv 1604.06174).

    Raises:
        SettingsError: the model has no layers that can do so.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not any(layer.gradient_checkpointing for layer in layers):
        raise SettingsError("MNRL_GRADIENT_CHECKPOINTING=true: this model has no layers to compute again; leave it out")


def most_tokens(collate: TokenCollator, plan: Plan, ranks: int) -> int:
    """Tokens of the largest share that a rank has of a batch."""
    at_once = max(1, ROWS_COUNTED // plan.shape[1])
    shares = [rank_slice(plan.shape[1], rank, ranks) for rank in range(ranks)]
    blocks = [plan[start : start + at_once, share] for start in range(0, len(plan), at_once) for share in shares]
    return max(int(collate.row_lengths(block.ravel()).reshape(block.shape).sum(axis=1).max()) for block in blocks)


def bytes_for_a_token(model: SentenceTransformer, columns: Sequence[Tokens]) -> float:
    """Bytes kept for the backward pass, by the token, of the longest text: attention grows with its square.

    The difference between two copies of it and one, so that what all texts share (weights in bf16) does not count. A
    short text stands beside them, as in a batch: with padding to mask, attention is computed in another way.
    """
    column = max(columns, key=lambda one: int(one.lengths.max()))
    longest, shortest = column.lengths.argmax(), column.lengths.argmin()
    length = int(column.lengths[longest])
    rows = (np.array([shortest, *[longest] * copies]) for copies in (1, 2))
    one, two = (bytes_kept(model, column.features(some, length)) for some in rows)
    return (two - one) / length


def bytes_kept(model: SentenceTransformer, features: Features) -> int:
    """Bytes that a forward pass keeps for the backward pass. It draws dropout, of which no later step may notice."""
    kept: dict[int, int] = {}
    gpus = [model.device] if model.device.type == "cuda" else []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(gpus), saved_tensors_hooks(keep, lambda tensor: tensor):
        embeddings = embed(model, send_to_device(features, model.device))
    del embeddings
    return sum(kept.values())


def free_bytes(model: SentenceTransformer, ranks: int) -> int:
    """Bytes that the activations of a rank's share of a batch may take, of what is free now."""
    training = BYTES_OF_A_WEIGHT * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if model.device.type == "cuda":
        return int(SHARE_OF_GPU * (free_gpu_bytes(model.device) - training))
    return int(SHARE_OF_MACHINE * (free_memory() / ranks - training))
