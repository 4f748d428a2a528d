"""Sample large sources: rows from all over their files, in files that the same readers read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnrl_job.data.sample_file import BEIR_ROWS, SampledFile, estimate_rows, sample_file
from mnrl_job.data.sources import LocalSource, ResolvedSource
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.storage import Entry, LocalStore, Store
from mnrl_job.storage.transfer import file_name
from mnrl_job.system.threads import THREADS, parallel

SAMPLED_ABOVE = 2_000_000
# Files of a source that are sampled, evenly spaced.
MAX_FILES = 200


@dataclass(frozen=True, slots=True)
class SampledSource(LocalSource):
    """The sample of a source, its files by their paths. `weight` and estimated `rows` are those of the whole source.

    Messages name the files that the user knows.
    """

    sampled: dict[str, SampledFile] = field(default_factory=dict)
    rows: int = 0
    files_in_all: int = 0
    paths: re.Pattern[str] = re.compile("")

    def restore_uris(self, text: str) -> str:
        return self.paths.sub(self._restore, text)

    def _restore(self, match: re.Match[str]) -> str:
        file = self.sampled[match[1]]
        return file.locate(int(match[2])) if match[2] else file.name


def sample_sources(sources: Sequence[ResolvedSource], rows: int, folder: Path) -> tuple[SampledSource, ...]:
    """Write a sample of about so many rows of all sources below `folder`; none if they have too few rows.

    Raises:
        DataError: a Parquet file is damaged, or a key cannot be a file name.
        JobError: a file cannot be read.
    """
    surveys = [_survey(source, folder / str(index)) for index, source in enumerate(sources)]
    total = sum(weight * sum(file.rows for file in files) for files, weight in surveys)
    if total <= SAMPLED_ABOVE:
        return ()
    return tuple(
        _sample(source, folder / str(index), files, weight, rows / total)
        for index, (source, (files, weight)) in enumerate(zip(sources, surveys, strict=True))
    )


def _survey(source: ResolvedSource, folder: Path) -> tuple[list[SampledFile], float]:
    """Choose files to sample, and estimate their rows. Returns also for how many files of the source each stands.

    Of BEIR's files all but the judgments are needed as a whole.
    """
    files = [_file(source, store, entry, folder) for store, entry in source.objects]
    is_beir = any(file.entry.key.startswith("qrels/") for file in files)
    counted = [file for file in files if not is_beir or file.entry.key in BEIR_ROWS]
    chosen = [counted[index] for index in evenly_spaced(len(counted), MAX_FILES)]
    estimated = [replace(file, rows=rows) for file, rows in zip(chosen, parallel(estimate_rows, chosen), strict=True)]
    in_all, in_chosen = (sum(file.entry.size for file in some) for some in (counted, chosen))
    others = [file for file in files if is_beir and file.entry.key not in BEIR_ROWS]
    return estimated + others, in_all / max(1, in_chosen)


def _file(source: ResolvedSource, store: Store, entry: Entry, folder: Path) -> SampledFile:
    path = folder / (entry.key if isinstance(store, LocalStore) else file_name(store, entry.key))
    path.parent.mkdir(parents=True, exist_ok=True)
    return SampledFile(f"{source.base_uri or store.label}/{entry.key}", store, entry, path)


def _sample(
    source: ResolvedSource, folder: Path, files: list[SampledFile], weight: float, fraction: float
) -> SampledSource:
    """Sample this fraction of the rows of a source, of which each file stands for `weight` files."""
    threads = max(1, THREADS // len(files))  # of each file: stores have a connection for each of all

    def write(file: SampledFile) -> SampledFile:
        return sample_file(file, round(fraction * weight * file.rows), threads) if file.rows else _copy(file)

    sampled = {str(file.path): file for file in parallel(write, files)}
    is_folder = source.base_uri == source.uri.rstrip("/") if source.store else source.root.is_dir()
    paths = "|".join(map(re.escape, sorted(sampled, key=len, reverse=True)))
    return SampledSource(
        name=source.name,
        uri=source.uri,
        files=tuple(file.path for file in files),
        root=folder if is_folder else files[0].path,
        weight=source.weight,
        sampled=sampled,
        rows=round(weight * sum(file.rows for file in sampled.values())),
        files_in_all=len(source.files) or len(source.entries),
        paths=re.compile(rf"({paths})(?::(\d+))?"),
    )


def _copy(file: SampledFile) -> SampledFile:
    """All of a file: a local one in place."""
    if isinstance(file.store, LocalStore):
        file.path.symlink_to((file.store.root / file.entry.key).absolute())
    else:
        with file.path.open("wb") as target:
            target.writelines(file.store.read(file.entry))
    return replace(file, read=file.entry.size)
