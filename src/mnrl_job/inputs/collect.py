"""All inputs of a run: every one found before the first is fetched, so that a missing one is known in seconds."""

from dataclasses import dataclass
from pathlib import Path

from mnrl_job.inputs.fetch import Fetched, Located, fetch, locate, locate_model
from mnrl_job.records import EvalSet, Pairs
from mnrl_job.runtime.files import sha256_of
from mnrl_job.settings import Settings

# Text that comes compressed grows; what is prepared holds it twice (as read, and without what was held out).
PREPARED_PER_BYTE = 4
MODEL_COPIES = 2
HUB_MODEL_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class LocatedInputs:
    """What is there. `model` is None for a Hub id."""

    train: tuple[Located, ...]
    evals: tuple[Located, ...]
    model: Located | None

    @property
    def remote_bytes(self) -> int:
        """How much will be fetched from object storage."""
        every = (*self.train, *self.evals, *([self.model] if self.model else []))
        return sum(one.bytes for one in every if one.store is not None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is on this machine. `model` is a folder or a Hub id, `model_sha256` covers the folder's files in order."""

    train: tuple[Fetched, ...]
    evals: tuple[Fetched, ...]
    model: str
    model_sha256: str | None


def locate_inputs(settings: Settings) -> LocatedInputs:
    """Find training data, eval sets and base model.

    Raises:
        JobError: the first that is missing, denied or malformed.
    """
    style = settings.s3_addressing_style
    return LocatedInputs(
        tuple(locate(source, "MNRL_TRAIN_DATA", style) for source in settings.train_data),
        tuple(locate(source, "MNRL_EVAL_DATA", style) for source in settings.eval_data),
        locate_model(settings.base_model, style),
    )


def fetch_inputs(located: LocatedInputs, folder: Path, base_model: str) -> Inputs:
    """Have all of them on this machine.

    Raises:
        JobError: one cannot be fetched.
    """
    train = tuple(fetch(one, folder) for one in located.train)
    evals = tuple(fetch(one, folder) for one in located.evals)
    if located.model is None:
        return Inputs(train, evals, base_model, None)
    model = fetch(located.model, folder)
    return Inputs(train, evals, str(model.root), sha256_of(model.files))


def input_hashes(inputs: Inputs, eval_sets: tuple[EvalSet, ...], pairs: Pairs | None) -> dict[str, str]:
    """SHA-256 of each input, as the manifest records them. A Hub model is known by its id and revision instead."""
    hashes = {f"train/{source.name}": source.sha256 for source in (pairs.sources if pairs else ())}
    hashes |= {f"eval/{one.name}": one.sha256 for one in eval_sets}
    return hashes | ({"base_model": inputs.model_sha256} if inputs.model_sha256 else {})


def needed_bytes(located: LocatedInputs) -> int:
    """An estimate of the scratch a run needs: remote inputs, prepared data, the model in training and as saved."""
    data = sum(one.bytes for one in (*located.train, *located.evals))
    model = located.model.bytes if located.model else HUB_MODEL_BYTES
    return located.remote_bytes + PREPARED_PER_BYTE * data + MODEL_COPIES * model
