"""Estimate the disk space of a run: downloads, prepared data, checkpoints and the saved model."""

import json
from math import prod

from mnrl_job.data.inputs import LocatedInputs
from mnrl_job.data.sources import ResolvedSource
from mnrl_job.storage import Entry, Store

# Compressed text expands, and the pairs are written twice: as read, and without those held out.
PREPARED_PER_BYTE = 4
# The size of a Hub model is not known yet; that of MiniLM is small enough that no run is refused that would fit.
HUB_MODEL_BYTES = 90_000_000
# Models are trained and saved in fp32, whatever the precision of their files.
BYTES_PER_PARAMETER = 4
# A checkpoint holds each parameter and the two moments of AdamW.
NUMBERS_PER_PARAMETER = 3
# Two are kept, one is being written, one is being uploaded, and one may be resumed from.
CHECKPOINTS = 5
SAFETENSORS = ".safetensors"
# A safetensors file begins with the length of its header.
LENGTH_BYTES = 8


def needed_bytes(located: LocatedInputs, *, trains: bool = True, adapter_only: bool = False, keeps_best: bool) -> int:
    """An estimate of the scratch space of a run that trains, or only evaluates.

    With `adapter_only` checkpoints hold a LoRA adapter only; with `keeps_best` the best weights are kept, also in each.
    """
    data = sum(source.bytes for source in (*located.train, *located.evals))
    needed = located.remote_bytes + PREPARED_PER_BYTE * data
    if not trains:
        return needed
    weights = trained_bytes(located.model) if located.model else HUB_MODEL_BYTES
    copies_per_checkpoint = 0 if adapter_only else NUMBERS_PER_PARAMETER + keeps_best
    return needed + weights * (1 + keeps_best + CHECKPOINTS * copies_per_checkpoint)


def trained_bytes(model: ResolvedSource) -> int:
    """The size of a model's weights in training, by the headers of its files; else the size of its files."""
    tensors = [(store, entry) for store, entry in model.objects if entry.key.endswith(SAFETENSORS)]
    return sum(BYTES_PER_PARAMETER * _count_parameters(store, entry) for store, entry in tensors) or model.bytes


def _count_parameters(store: Store, entry: Entry) -> int:
    """The number of parameters in a safetensors file; 0 for an invalid file, which loading it will report."""
    length = int.from_bytes(b"".join(store.read(entry, 0, min(LENGTH_BYTES, entry.size))), "little")
    if not 0 < length <= entry.size - LENGTH_BYTES:
        return 0
    try:
        header = json.loads(b"".join(store.read(entry, LENGTH_BYTES, LENGTH_BYTES + length)))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
