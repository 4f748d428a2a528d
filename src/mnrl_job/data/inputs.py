"""All inputs of a run: every one found before the first is fetched, so that a missing one is known in seconds."""

from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import TypedDict

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.sources import LocalSource, ResolvedSource, fetch, locate, locate_model, meant
from mnrl_job.system.files import sha256_of


class Listing(TypedDict):
    """What is there of an input. `sha256` covers the name, size and version of each file: its ETag, else its time."""

    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LocatedInputs:
    """What is there. `model` and `guide` are None for a Hub id, `guide` also where none is wanted."""

    train: tuple[ResolvedSource, ...]
    evals: tuple[ResolvedSource, ...]
    model: ResolvedSource | None
    guide: ResolvedSource | None = None

    @property
    def remote_bytes(self) -> int:
        """How much will be fetched from object storage."""
        every = (*self.train, *self.evals, self.model, self.guide)
        return sum(one.bytes for one in every if one is not None and one.store is not None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is on this machine. `model` is a folder or a Hub id, `model_sha256` covers the folder's files in order.

    So do `guide`, empty where there is none, and `guide_sha256`. `listing` is what was there when they were located.
    """

    train: tuple[LocalSource, ...]
    evals: tuple[LocalSource, ...]
    model: str
    model_sha256: str | None
    guide: str = ""
    guide_sha256: str | None = None
    listing: dict[str, Listing] = field(default_factory=dict)


def locate_inputs(settings: Settings) -> LocatedInputs:
    """Find training data, eval sets, base model and guide.

    Raises:
        JobError: the first that is missing, denied or malformed.
    """
    style = settings.s3_addressing_style
    return LocatedInputs(
        tuple(
            locate(source, "MNRL_TRAIN_DATA", style) for source in meant(settings.train_data, "MNRL_TRAIN_DATA", style)
        ),
        tuple(locate(source, "MNRL_EVAL_DATA", style) for source in meant(settings.eval_data, "MNRL_EVAL_DATA", style)),
        locate_model(settings.base_model, style),
        locate_model(settings.guide_model, style, "MNRL_GUIDE_MODEL") if settings.guide_model else None,
    )


def fetch_inputs(located: LocatedInputs, folder: Path, settings: Settings) -> Inputs:
    """Have all of them on this machine.

    Raises:
        JobError: one cannot be fetched.
    """
    train = tuple(fetch(one, folder) for one in located.train)
    evals = tuple(fetch(one, folder) for one in located.evals)
    model = _fetch_model(located.model, folder, settings.base_model)
    return Inputs(train, evals, *model, *_fetch_model(located.guide, folder, settings.guide_model))


def _fetch_model(located: ResolvedSource | None, folder: Path, name: str) -> tuple[str, str | None]:
    """A model's folder and the hash of its files; the name alone of one that the Hub has."""
    if located is None:
        return name, None
    model = fetch(located, folder)
    return str(model.root), sha256_of(model.files)


def input_hashes(inputs: Inputs, eval_sets: tuple[EvalSet, ...], pairs: Pairs | None) -> dict[str, str]:
    """SHA-256 of each input, as the manifest records them. A Hub model is known by its id and revision instead."""
    hashes = {f"train/{source.name}": source.sha256 for source in (pairs.sources if pairs else ())}
    hashes |= {f"eval/{one.name}": one.sha256 for one in eval_sets}
    models = {"base_model": inputs.model_sha256, "guide_model": inputs.guide_sha256}
    return hashes | {name: sha256 for name, sha256 in models.items() if sha256}
