"""Detect changed inputs by their listings, without reading them."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from mnrl_job.data.inputs import InputUris, Listing, LocatedInputs
from mnrl_job.data.sources import ResolvedSource, locate, locate_model
from mnrl_job.errors import JobError
from mnrl_job.system.json_text import sha256_of_json


def list_inputs(located: LocatedInputs, accelerate_config: str | None = None) -> dict[str, Listing]:
    """The listing of each input, by its name in the manifest. A Hub model has none."""
    inputs = {f"train/{source.name}": source for source in located.train}
    inputs |= {f"eval/{source.name}": source for source in located.evals}
    models = {"base_model": located.model, "guide_model": located.guide}
    inputs |= {name: model for name, model in models.items() if model}
    if accelerate_config and Path(accelerate_config).is_file():
        file = Path(accelerate_config)
        inputs["accelerate_config"] = ResolvedSource(file.name, str(file), (file,))
    return {name: _list_files(source) for name, source in inputs.items()}


def list_available_inputs(uris: InputUris, accelerate_config: str | None = None) -> dict[str, Listing]:
    """The listings of the inputs that still exist and can be accessed."""
    style = uris.addressing_style
    train, evals = (
        tuple(filter(None, (_suppress_errors(partial(locate, source, variable, style)) for source in sources)))
        for sources, variable in ((uris.train, "MNRL_TRAIN_DATA"), (uris.evals, "MNRL_EVAL_DATA"))
    )
    model = _suppress_errors(partial(locate_model, uris.model, style))
    guide = _suppress_errors(partial(locate_model, uris.guide, style, "MNRL_GUIDE_MODEL")) if uris.guide else None
    return list_inputs(LocatedInputs(train, evals, model, guide), accelerate_config)


def find_changed_input(before: Mapping[str, Listing], now: Mapping[str, Listing]) -> str | None:
    """The name of the first available input that changed, and how; None if none did."""
    for name, listing in now.items():
        previous = before.get(name)
        if previous is None:
            return f"{name}: was not a local file or folder before"
        if (previous["files"], previous["bytes"]) != (listing["files"], listing["bytes"]):
            sizes = (f"{each['files']} file(s) of {each['bytes']} bytes" for each in (previous, listing))
            return f"{name}: changed from {' to '.join(sizes)}"
        if previous["sha256"] != listing["sha256"]:
            return f"{name}: its files were changed or renamed"
    return None


def _suppress_errors(find: Callable[[], ResolvedSource | None]) -> ResolvedSource | None:
    with suppress(JobError):
        return find()
    return None


def _list_files(located: ResolvedSource) -> Listing:
    folder = os.path.commonpath([file.parent for file in located.files]) if located.files else ""
    files = [(entry.key, entry.size, entry.version) for entry in located.entries]
    for file in located.files:
        status = file.stat()
        # Whole seconds: some mounts truncate modification times.
        files.append((os.path.relpath(file, folder), status.st_size, str(int(status.st_mtime))))
    return {"files": len(files), "bytes": sum(size for _, size, _ in files), "sha256": sha256_of_json(sorted(files))}
