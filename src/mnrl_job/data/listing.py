"""Are a run's inputs still those that it was made of? Told by a listing alone: no byte is read."""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.inputs import Listing, LocatedInputs
from mnrl_job.data.sources import ResolvedSource, locate, locate_model
from mnrl_job.errors import JobError
from mnrl_job.system.json_text import dumps


def listings(located: LocatedInputs, settings: Settings) -> dict[str, Listing]:
    """The listing of each input by the name that the manifest has for it. A model of the Hub has none."""
    named = {f"train/{one.name}": one for one in located.train} | {f"eval/{one.name}": one for one in located.evals}
    models = {"base_model": located.model, "guide_model": located.guide}
    named |= {name: one for name, one in models.items() if one}
    if settings.accelerate_config and Path(settings.accelerate_config).is_file():
        file = Path(settings.accelerate_config)
        named["accelerate_config"] = ResolvedSource(file.name, str(file), (file,))
    return {name: _listing(one) for name, one in named.items()}


def listings_in_reach(settings: Settings) -> dict[str, Listing]:
    """Those of the inputs that are still there, and can be asked for."""
    style = settings.s3_addressing_style
    guide = settings.guide_model

    def those(sources: tuple[Source, ...], variable: str) -> tuple[ResolvedSource, ...]:
        found = (_in_reach(partial(locate, source, variable, style)) for source in sources)
        return tuple(filter(None, found))

    located = LocatedInputs(
        those(settings.train_data, "MNRL_TRAIN_DATA"),
        those(settings.eval_data, "MNRL_EVAL_DATA"),
        _in_reach(partial(locate_model, settings.base_model, style)),
        _in_reach(partial(locate_model, guide, style, "MNRL_GUIDE_MODEL")) if guide else None,
    )
    return listings(located, settings)


def find_other(was: Mapping[str, Listing], now: Mapping[str, Listing]) -> str | None:
    """The first input that is there now and is not what it was, and how it differs; None where there is none."""
    for name, one in now.items():
        before = was.get(name)
        if before is None:
            return f"{name}: was not a local file or folder before"
        if (before["files"], before["bytes"]) != (one["files"], one["bytes"]):
            sizes = (f"{each['files']} file(s) of {each['bytes']} bytes" for each in (before, one))
            return f"{name}: changed from {' to '.join(sizes)}"
        if before["sha256"] != one["sha256"]:
            return f"{name}: its files were changed or renamed"
    return None


def _in_reach(find: Callable[[], ResolvedSource | None]) -> ResolvedSource | None:
    with suppress(JobError):
        return find()
    return None


def _listing(located: ResolvedSource) -> Listing:
    folder = os.path.commonpath([file.parent for file in located.files]) if located.files else ""
    facts = [(entry.key, entry.size, entry.version) for entry in located.entries]
    for file in located.files:
        status = file.stat()
        # Mounts agree on the second only.
        facts.append((os.path.relpath(file, folder), status.st_size, str(int(status.st_mtime))))
    digest = hashlib.sha256(dumps(sorted(facts)).encode())
    return {"files": len(facts), "bytes": sum(size for _, size, _ in facts), "sha256": digest.hexdigest()}
