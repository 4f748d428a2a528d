"""The contexts of a training step, forward and backward."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from sentence_transformers import SentenceTransformer

from mnrl_job.embedding.precision import DTYPES, Precision, autocast
from mnrl_job.training.dropout import fast_dropout
from mnrl_job.training.gradient_accumulation import CastWeight, fp32_accumulation, sharded_fp32_accumulation


@contextmanager
def step_context(
    model: SentenceTransformer, precision: Precision, cast_weights: Sequence[CastWeight], sharded: bool
) -> Iterator[None]:
    """One autocast context for all chunks, gradients accumulated in fp32, and fast dropout on a CPU.

    `cast_weights` are those that autocast casts; none if FSDP, which shards the model, casts them.
    """
    with ExitStack() as stack:
        stack.enter_context(autocast(precision, model.device))
        if cast_weights:
            stack.enter_context(fp32_accumulation(model, cast_weights, DTYPES[precision]))
        if sharded and precision != "fp32":
            stack.enter_context(sharded_fp32_accumulation(model))
        if model.device.type == "cpu":
            stack.enter_context(fast_dropout())
        yield
