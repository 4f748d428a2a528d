"""All inputs of a run. They are located before the first is fetched, so a missing one is reported within seconds."""

from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import TypedDict

from mnrl_job.config.setting_types import Source
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.sources import LocalSource, ResolvedSource, fetch, locate_all, locate_model
from mnrl_job.storage import Store
from mnrl_job.system.files import sha256_of


class Listing(TypedDict):
    """The files of an input. `sha256` covers the name, size and version (ETag or modification time) of each file."""

    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputUris:
    """The inputs as the user names them, and the addressing style of S3. A model may be a Hub id."""

    train: tuple[Source, ...]
    evals: tuple[Source, ...]
    model: str
    guide: str = ""
    addressing_style: str = "auto"


@dataclass(frozen=True, slots=True)
class LocatedInputs:
    """The files of the inputs. `model` and `guide` are None for a Hub id, `guide` also if there is none.

    `prepared` is a prepared data set to use instead of `train` and `evals`.
    """

    train: tuple[ResolvedSource, ...]
    evals: tuple[ResolvedSource, ...]
    model: ResolvedSource | None
    guide: ResolvedSource | None = None
    prepared: Store | None = None

    @property
    def remote_bytes(self) -> int:
        """Bytes to download."""
        inputs = (*self.train, *self.evals, self.model, self.guide)
        return sum(located.bytes for located in inputs if located is not None and located.store is not None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs on this machine. A model is a folder or a Hub id; its hash is of the folder's files, None for an id.

    `listing` is of the inputs when they were located. `prepared` is as it was located.
    """

    train: tuple[LocalSource, ...]
    evals: tuple[LocalSource, ...]
    model: str
    model_sha256: str | None
    guide: str = ""
    guide_sha256: str | None = None
    listing: dict[str, Listing] = field(default_factory=dict)
    prepared: Store | None = None


def locate_inputs(uris: InputUris) -> LocatedInputs:
    """Find training data, eval sets, base model and guide.

    Raises:
        JobError: the first that is missing, denied or malformed.
    """
    style = uris.addressing_style
    return LocatedInputs(
        locate_all(uris.train, "MNRL_TRAIN_DATA", style),
        locate_all(uris.evals, "MNRL_EVAL_DATA", style),
        locate_model(uris.model, style),
        locate_model(uris.guide, style, "MNRL_GUIDE_MODEL") if uris.guide else None,
    )


def fetch_inputs(located: LocatedInputs, uris: InputUris, folder: Path) -> Inputs:
    """Download the remote inputs below `folder`.

    Raises:
        JobError: a download failed.
    """
    train = tuple(fetch(source, folder) for source in located.train)
    evals = tuple(fetch(source, folder) for source in located.evals)
    model, model_sha256 = _fetch_model(located.model, uris.model, folder)
    guide, guide_sha256 = _fetch_model(located.guide, uris.guide, folder)
    return Inputs(train, evals, model, model_sha256, guide, guide_sha256, prepared=located.prepared)


def _fetch_model(located: ResolvedSource | None, name: str, folder: Path) -> tuple[str, str | None]:
    """A model's folder and the hash of its files; for a Hub id the name alone."""
    if located is None:
        return name, None
    model = fetch(located, folder)
    return str(model.root), sha256_of(model.files)


def input_hashes(inputs: Inputs, eval_sets: tuple[EvalSet, ...], pairs: Pairs | None) -> dict[str, str]:
    """SHA-256 of each input, as the manifest records them. A Hub model is identified by id and revision instead."""
    hashes = {f"train/{source.name}": source.sha256 for source in (pairs.sources if pairs else ())}
    hashes |= {f"eval/{eval_set.name}": eval_set.sha256 for eval_set in eval_sets}
    models = {"base_model": inputs.model_sha256, "guide_model": inputs.guide_sha256}
    return hashes | {name: sha256 for name, sha256 in models.items() if sha256}
