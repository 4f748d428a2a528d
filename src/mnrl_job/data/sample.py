"""Sample large sources: rows from all over their files, in files that the same readers read."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnrl_job.data.sample_file import BEIR_ROWS, File, SampledFile, estimate_rows, sample_file
from mnrl_job.data.sources import LocalSource, ResolvedSource
from mnrl_job.data.tables import evenly_spaced
from mnrl_job.storage import LocalStore
from mnrl_job.storage.transfer import file_name
from mnrl_job.system.threads import parallel

SAMPLED_ABOVE = 2_000_000
# Files of a source that are sampled, evenly spaced.
MAX_FILES = 200
FILES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class SampledSource(LocalSource):
    """The sample of a source with its files by their paths. `rows`, an estimate, and `files_in_all` are of the whole.

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


@dataclass(frozen=True, slots=True)
class _Survey:
    """The files of a source to sample. Each stands for `weight` files."""

    source: ResolvedSource
    folder: Path
    files: tuple[File, ...]
    weight: float

    @property
    def rows(self) -> float:
        return self.weight * sum(file.rows for file in self.files)


def sample_sources(sources: Sequence[ResolvedSource], rows: int, folder: Path) -> tuple[SampledSource, ...]:
    """Write a sample of about so many rows of all sources below `folder`; none if they have too few rows.

    Raises:
        DataError: a Parquet file is damaged, or a key cannot be a file name.
        JobError: a file cannot be read.
    """
    surveys = [_survey(source, folder / str(index)) for index, source in enumerate(sources)]
    total = sum(survey.rows for survey in surveys)
    if total <= SAMPLED_ABOVE:
        return ()
    return tuple(_sample(survey, rows / total) for survey in surveys)


def _survey(source: ResolvedSource, folder: Path) -> _Survey:
    """Choose and estimate the files of a source. Of BEIR's files all but the judgments are needed as a whole."""
    files = _files_of(source)
    is_beir = any(file.entry.key.startswith("qrels/") for file in files)
    counted = [file for file in files if not is_beir or file.entry.key in BEIR_ROWS]
    chosen = [counted[index] for index in evenly_spaced(len(counted), MAX_FILES)]
    rows = parallel(lambda file: estimate_rows(file, _path(folder, file)), chosen)
    bytes_in_all, bytes_chosen = (sum(file.entry.size for file in some) for some in (counted, chosen))
    estimated = (replace(file, rows=count) for file, count in zip(chosen, rows, strict=True))
    others = (file for file in files if file not in counted)
    return _Survey(source, folder, (*estimated, *others), bytes_in_all / max(1, bytes_chosen))


def _files_of(source: ResolvedSource) -> list[File]:
    if source.store is not None:
        return [File(f"{source.base_uri}/{entry.key}", source.store, entry) for entry in source.entries]
    root = source.root if source.root.is_dir() else Path(os.path.commonpath([file.parent for file in source.files]))
    store = LocalStore(root, str(root))
    entries = ((file, store.stat(file.relative_to(root).as_posix())) for file in source.files)
    return [File(str(file), store, entry) for file, entry in entries if entry]


def _path(folder: Path, file: File) -> Path:
    path = folder / file_name(file.store, file.entry.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _sample(survey: _Survey, fraction: float) -> SampledSource:
    """Sample this fraction of the rows of a source."""
    source, wanted = survey.source, fraction * survey.weight

    def write(file: File) -> SampledFile:
        path = _path(survey.folder, file)
        return sample_file(file, round(wanted * file.rows), path) if file.rows else _copy(file, path)

    sampled = parallel(write, survey.files, FILES_AT_ONCE)
    paths = [_path(survey.folder, file) for file in survey.files]
    is_folder = source.base_uri == source.uri.rstrip("/") if source.store else source.root.is_dir()
    names = "|".join(re.escape(str(path)) for path in sorted(paths, key=lambda path: -len(str(path))))
    return SampledSource(
        name=source.name,
        uri=source.uri,
        files=tuple(paths),
        root=survey.folder if is_folder else paths[0],
        weight=source.weight,
        sampled=dict(zip(map(str, paths), sampled, strict=True)),
        rows=round(survey.weight * sum(file.rows for file in sampled)),
        files_in_all=len(source.files) or len(source.entries),
        paths=re.compile(rf"({names})(?::(\d+))?"),
    )


def _copy(file: File, path: Path) -> SampledFile:
    """All of a file: a local one in place."""
    if isinstance(file.store, LocalStore):
        path.symlink_to((file.store.root / file.entry.key).absolute())
        return SampledFile(file.name)
    with path.open("wb") as target:
        target.writelines(file.store.read(file.entry))
    return SampledFile(file.name, read=file.entry.size)
