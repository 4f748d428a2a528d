"""How much disk a run needs: what is fetched, what is prepared of it, checkpoints, the saved model."""

import json
from math import prod

from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import LocatedInputs
from mnrl_job.data.sources import ResolvedSource
from mnrl_job.storage import Entry, LocalStore, Store

# Text that comes compressed grows; what is prepared holds it twice (as read, and without what was held out).
PREPARED_PER_BYTE = 4
# Of a model on the Hub the size is not known yet; that of MiniLM, so that nothing is refused that would fit.
HUB_MODEL_BYTES = 90_000_000
# Models are trained and saved in fp32, whatever their files hold.
BYTES_PER_PARAMETER = 4
# A checkpoint holds a parameter and the two moments of AdamW.
NUMBERS_PER_PARAMETER = 3
# Two are kept, one is being written, one is held until it is sent; after an interruption one is gone on from.
CHECKPOINTS = 5
SAFETENSORS = ".safetensors"
# A file of this kind begins with the length of its header.
LENGTH_BYTES = 8


def needed_bytes(located: LocatedInputs, settings: Settings, trains: bool = True) -> int:
    """An estimate of the scratch that a run needs.

    Args:
        located: its inputs.
        settings: how it trains.
        trains: whether it does, or only evaluates.
    """
    data = sum(one.bytes for one in (*located.train, *located.evals))
    needed = located.remote_bytes + PREPARED_PER_BYTE * data
    if not trains:
        return needed
    weights = trained_bytes(located.model) if located.model else HUB_MODEL_BYTES
    # With LoRA checkpoints are of the adapter alone; the weights that scored best are kept, and go along in each.
    state = 0 if settings.lora_rank else NUMBERS_PER_PARAMETER + bool(settings.eval_interval)
    return needed + weights * (1 + bool(settings.eval_interval) + CHECKPOINTS * state)


def trained_bytes(model: ResolvedSource) -> int:
    """The parameters of a model as they are in training, by the headers of its files, else the files as they are."""
    files = _files(model)
    tensors = [(store, entry) for store, entry in files if entry.key.endswith(SAFETENSORS)]
    return sum(BYTES_PER_PARAMETER * _parameters(store, entry) for store, entry in tensors) or model.bytes


def _files(model: ResolvedSource) -> list[tuple[Store, Entry]]:
    if model.store is not None:
        return [(model.store, entry) for entry in model.entries]
    stores = [(LocalStore(path.parent, str(path.parent)), path.name) for path in model.files]
    return [(store, entry) for store, name in stores if (entry := store.stat(name))]


def _parameters(store: Store, entry: Entry) -> int:
    """How many numbers a safetensors file holds; 0 where it is none, which who loads it will say."""
    length = int.from_bytes(b"".join(store.read(entry, 0, min(LENGTH_BYTES, entry.size))), "little")
    if not 0 < length <= entry.size - LENGTH_BYTES:
        return 0
    try:
        header = json.loads(b"".join(store.read(entry, LENGTH_BYTES, LENGTH_BYTES + length)))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
