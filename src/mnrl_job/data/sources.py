"""From a URI to local files: found first, all of them, then fetched."""

import errno
import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath

from mnrl_job.config.setting_types import Source, own_name
from mnrl_job.data.file_formats.common import is_unicode
from mnrl_job.data.globs import WILD, is_hidden, matched, readings, visible
from mnrl_job.data.table_formats import local_logs, refuse_tables, remote_logs
from mnrl_job.errors import DataError, DeniedError, JobError, NotFound
from mnrl_job.storage import Entry, Store, is_hub_id, is_remote, local_path, open_store, split_revision
from mnrl_job.storage.transfer import download
from mnrl_job.storage.uri import S3, bucket_and_prefix
from mnrl_job.system.files import storage_error

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class ResolvedSource:
    """A source that is there. A remote one is still to be fetched: `entries` below `store`, whose URI is `base`."""

    name: str
    uri: str
    files: tuple[Path, ...] = ()
    root: Path = Path()
    store: Store | None = None
    base: str = ""
    entries: tuple[Entry, ...] = ()
    weight: float | None = None

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries) + sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A source whose files are on this machine, in a stable order. `root` is the folder where it is one.

    Of a remote source these are copies in a folder that the user knows as `base`.
    """

    name: str
    uri: str
    files: tuple[Path, ...]
    root: Path
    copies: Path | None = None
    base: str = ""
    weight: float | None = None

    def as_given(self, text: str) -> str:
        """A message about our copy, told about the user's object."""
        return text.replace(str(self.copies), self.base) if self.copies else text

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside tell of the user's objects, not of our copies."""
        try:
            yield
        except JobError as error:
            if self.copies is None:
                raise
            raise type(error)(self.as_given(str(error))) from error


def locate(source: Source, variable: str, addressing_style: str = "auto") -> ResolvedSource:
    """Find the files of a source: a file, a folder or prefix (all files below it), or a glob. Nothing is fetched yet.

    Raises:
        NotFound: nothing is there.
        JobError: it may not be read, the storage does not answer, or the scheme is not one we read.
    """
    found = _locate_remote(source, variable, addressing_style) if is_remote(source.uri) else _locate(source, variable)
    if not found.files and not found.entries and not (found := _as_path(source, variable)).files:
        taken = "" if own_name(source.uri) == source.name else f" (read as name=uri, with the name {source.name})"
        path = f", or ./{source} for a path" if taken and "://" not in source.uri else ""
        raise NotFound(
            f"{variable}: {source.uri}{taken} does not exist or contains no files; give a file, folder or glob{path}"
        )
    return replace(found, weight=source.weight)


def _as_path(source: Source, variable: str) -> ResolvedSource:
    """What is named as `name=uri` and is a path itself, as `date=2026-01-01/part-0.jsonl`."""
    if "://" in source.uri:
        return ResolvedSource(source.name, source.uri)
    return _locate(replace(source, uri=str(source)), variable)


def meant(sources: tuple[Source, ...], variable: str, addressing_style: str = "auto") -> tuple[Source, ...]:
    """The sources of a setting: one, where the commas between them belong to the name of what is there.

    Raises:
        JobError: as `locate`.
    """
    if len(sources) < 2 or any("://" in one.uri for one in sources[1:]):
        return sources
    first, *others = sources
    texts = [first.uri, *(one.uri if own_name(one.uri) == one.name else str(one) for one in others)]
    for comma in (",", ", "):
        with suppress(NotFound, DeniedError):
            whole = Source(first.name, comma.join(texts), first.weight)
            locate(whole, variable, addressing_style)
            return (whole,)
    return sources


def fetch(located: ResolvedSource, folder: Path) -> LocalSource:
    """Have the files of a source on this machine; remote ones below `folder`, where they are found again next time.

    Raises:
        DataError: an object's key cannot be a file name.
        JobError: it cannot be fetched.
    """
    if located.store is None:
        return LocalSource(located.name, located.uri, located.files, located.root, weight=located.weight)
    copies = folder / hashlib.sha256(located.uri.encode()).hexdigest()[:12]
    files = tuple(sorted(download(located.store, located.entries, copies)))
    is_folder = located.base == located.uri.rstrip("/")
    root = copies if is_folder else files[0]
    return LocalSource(located.name, located.uri, files, root, copies, located.base, located.weight)


def locate_model(name: str, addressing_style: str = "auto", variable: str = "MNRL_BASE_MODEL") -> ResolvedSource | None:
    """A folder or prefix that holds a whole model; None for a Hub id, which is not ours to look up.

    Args:
        name: of the model, as given.
        addressing_style: of S3.
        variable: the setting that names it.

    Raises:
        NotFound: it is not there, or has no weights.
        DeniedError: this user may not read it.
    """
    source = Source(variable.removeprefix("MNRL_").lower(), name)
    if is_remote(name):
        found = locate(source, variable, addressing_style)
        _check_model(variable, name, {entry.key for entry in found.entries})
        return found
    path = local_path(name, variable)
    with _reading(variable):
        is_folder = path.is_dir()
    if is_folder:
        found = _locate(source, variable)
        _check_model(variable, name, {file.relative_to(path).as_posix() for file in found.files})
        return found
    owner_and_name, _ = split_revision(name)  # a revision may be refs/pr/1
    if not is_hub_id(name) or owner_and_name.count("/") > 1:
        raise NotFound(
            f"{variable}: {name} is not a folder; give a model folder, an s3:// prefix or a Hub id (owner/name)"
        )
    return None


def _check_model(variable: str, name: str, files: set[str]) -> None:
    if not any(Path(file).match(pattern) for pattern in WEIGHTS for file in files):
        raise NotFound(
            f"{variable}: {name} contains no weights ({' or '.join(WEIGHTS)}); "
            "give a folder written by SentenceTransformer.save_pretrained()"
        )
    if not files & {"modules.json", "config.json", "adapter_config.json"}:
        raise NotFound(f"{variable}: {name} contains neither modules.json nor config.json; give a model folder")


@contextmanager
def _reading(variable: str) -> Iterator[None]:
    """Tell of what cannot be read, often since a container's user is not the files' owner."""
    try:
        yield
    except PermissionError as error:
        raise DeniedError(
            f"{variable}: user {os.geteuid()} cannot read {error.filename}; grant access, such as by chmod -R a+rX"
        ) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise storage_error(error, f"{variable}: cannot read {error.filename}") from error
        raise NotFound(f"{variable}: the file name is too long: {error.filename}") from error


def _locate(source: Source, variable: str) -> ResolvedSource:
    with _reading(variable):
        found = _look_up(source, local_path(source.uri, variable))
        for file in found.files:
            file.open("rb").close()
            if not is_unicode(str(file)):
                raise DataError(f"{variable}: the file name {os.fsencode(file)!r} is not UTF-8; rename it")
    files = [file.absolute() for file in found.files]
    refuse_tables([*map(str, files)], local_logs(files), f"{variable}: {source.uri}")
    return found


def _look_up(source: Source, path: Path) -> ResolvedSource:
    if path.is_file():
        return ResolvedSource(source.name, source.uri, (path,), path)
    if path.is_dir():
        root, found = path, list(_below(path))
    else:
        plain = WILD.split(str(path), maxsplit=1)[0]
        root = Path(plain[: plain.rfind("/") + 1] or ".")
        matches = (glob.glob(reading, recursive=True) for reading in readings(str(path)))
        found = [Path(match) for match in next(filter(None, matches), [])]
    files = [file for file in found if file.is_file() and not is_hidden(file.relative_to(root).as_posix())]
    return ResolvedSource(source.name, source.uri, tuple(sorted(files)), path)


def _below(folder: Path) -> Iterator[Path]:
    """All files of a folder, also behind links. Unlike `rglob`, it does not pass over a folder that may not be read."""

    def refuse(error: OSError) -> None:
        raise error

    seen: set[Path] = set()
    for path, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead back above itself, or to what another one shows.
        if (real := Path(path).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        # A volume of its own has a lost+found, which is root's. In order, so that every machine takes the same way.
        folders[:] = sorted(name for name in folders if name != "lost+found" and not is_hidden(name))
        yield from (Path(path) / name for name in names)


def _locate_remote(source: Source, variable: str, addressing_style: str) -> ResolvedSource:
    """The object; else all below the prefix as below a folder: `b/a` is `a/…`, never `ab`; else what a glob matches."""
    bucket, _ = bucket_and_prefix(source.uri, variable)
    key = source.uri[len(S3) + len(bucket) + 1 :]
    folder, _, name = key.rpartition("/")
    base = S3 + f"{bucket}/{folder}".strip("/")
    store = open_store(base, variable, addressing_style)
    if name and (entry := store.stat(name)):
        found = ResolvedSource(source.name, source.uri, store=store, base=base, entries=(entry,))
        return _not_of_a_table(found, [], variable, addressing_style)
    store = store.join(name) if name else store
    listed = list(store.list_objects())
    wild = WILD.search(key)
    if listed or not wild:
        base = source.uri.rstrip("/")
        found = ResolvedSource(source.name, source.uri, store=store, base=base, entries=tuple(visible(listed)))
        return _not_of_a_table(found, listed, variable, addressing_style)
    folder, _, name = key[: wild.start()].rpartition("/")
    base = S3 + f"{bucket}/{folder}".strip("/")
    store = open_store(base, variable, addressing_style)
    listed = list(store.list_objects(name))
    entries = matched(visible(listed), key.removeprefix(folder).lstrip("/"))
    found = ResolvedSource(source.name, source.uri, store=store, base=base, entries=tuple(entries))
    return _not_of_a_table(found, listed, variable, addressing_style)


def _not_of_a_table(found: ResolvedSource, listed: list[Entry], variable: str, addressing_style: str) -> ResolvedSource:
    """What was found, unless a log that was `listed` or stands above rules over it.

    Raises:
        DataError: it does.
    """
    bucket, prefix = bucket_and_prefix(found.base, variable)
    root, base = open_store(S3 + bucket, variable, addressing_style), PurePosixPath(prefix)
    logs = chain((str(base / entry.key) for entry in listed), remote_logs(root, base / "any"))
    refuse_tables([str(base / entry.key) for entry in found.entries], logs, f"{variable}: {found.uri}")
    return found
