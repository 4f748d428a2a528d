"""Locate the files of a source, and download remote ones."""

import errno
import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath

from mnrl_job.config.setting_types import Source, default_name
from mnrl_job.data.file_formats.common import BadRow, is_unicode
from mnrl_job.data.globs import WILDCARD, filter_by_glob, glob_variants, is_hidden, without_hidden
from mnrl_job.data.table_formats import local_logs, refuse_table_files, remote_logs
from mnrl_job.errors import DataError, DeniedError, JobError, NotFound
from mnrl_job.storage import Entry, LocalStore, Store, is_hub_id, is_remote, local_path, open_store, split_revision
from mnrl_job.storage.transfer import download
from mnrl_job.storage.uri import S3, bucket_and_prefix
from mnrl_job.system.files import storage_error

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class ResolvedSource:
    """A source that exists: local `files` in the folder or file `root`, or `entries` of `store` still to be downloaded.

    `uri` is as given, `base_uri` that of the store.
    """

    name: str
    uri: str
    files: tuple[Path, ...] = ()
    root: Path = Path()
    store: Store | None = None
    base_uri: str = ""
    entries: tuple[Entry, ...] = ()
    weight: float | None = None

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries) + sum(file.stat().st_size for file in self.files)

    @property
    def objects(self) -> list[tuple[Store, Entry]]:
        """The files as objects of a store, local ones of their folder."""
        if self.store is not None:
            return [(self.store, entry) for entry in self.entries]
        root = self.root if self.root.is_dir() else Path(os.path.commonpath([file.parent for file in self.files]))
        store = LocalStore(root, str(root))
        return [(store, Entry(file.relative_to(root).as_posix(), file.stat().st_size, "")) for file in self.files]


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A source whose files are on this machine, in a stable order; `root` is the folder, or the single file.

    Of a remote source `base_uri` was downloaded to `download_folder`.
    """

    name: str
    uri: str
    files: tuple[Path, ...]
    root: Path
    download_folder: Path | None = None
    base_uri: str = ""
    weight: float | None = None

    def restore_uris(self, text: str) -> str:
        """Replace paths of downloaded files by the URIs that the user knows."""
        return text.replace(str(self.download_folder), self.base_uri) if self.download_folder else text

    def restore_uris_of(self, row: BadRow) -> BadRow:
        return BadRow(self.restore_uris(row.where), row.reason, self.restore_uris(row.detail))

    @contextmanager
    def uris_in_errors(self) -> Iterator[None]:
        """Restore URIs in the messages of errors raised inside."""
        try:
            yield
        except JobError as error:
            error.args = (self.restore_uris(str(error)),)
            raise


def locate(source: Source, variable: str, addressing_style: str = "auto") -> ResolvedSource:
    """Find the files of a source: a file, a folder or prefix (all files below it), or a glob. Nothing is downloaded.

    Raises:
        NotFound: no file matches.
        JobError: access is denied, the storage does not answer, or the URI's scheme is not supported.
    """
    if is_remote(source.uri):
        located = _locate_remote(source, variable, addressing_style)
    else:
        located = _locate_local(source, variable)
    if not located.files and not located.entries and not (located := _locate_full_text(source, variable)).files:
        is_named = default_name(source.uri) != source.name
        parsed = f" (read as name=uri, with the name {source.name})" if is_named else ""
        path = f", or ./{source} for a path" if is_named and "://" not in source.uri else ""
        raise NotFound(
            f"{variable}: {source.uri}{parsed} does not exist or contains no files; give a file, folder or glob{path}"
        )
    return replace(located, weight=source.weight)


def _locate_full_text(source: Source, variable: str) -> ResolvedSource:
    """A path that looks like `name=uri`, as in `date=2026-01-01/part-0.jsonl`."""
    if "://" in source.uri:
        return ResolvedSource(source.name, source.uri)
    return _locate_local(replace(source, uri=str(source)), variable)


def rejoin_commas(sources: tuple[Source, ...], variable: str, addressing_style: str = "auto") -> tuple[Source, ...]:
    """The sources of a setting; a single one if it exists under a name with commas.

    Raises:
        JobError: as `locate`.
    """
    if len(sources) < 2 or any("://" in source.uri for source in sources[1:]):
        return sources
    first, *others = sources
    texts = [first.uri, *(other.uri if default_name(other.uri) == other.name else str(other) for other in others)]
    for comma in (",", ", "):
        with suppress(NotFound, DeniedError):
            joined = Source(first.name, comma.join(texts), first.weight)
            locate(joined, variable, addressing_style)
            return (joined,)
    return sources


def locate_all(sources: tuple[Source, ...], variable: str, addressing_style: str) -> tuple[ResolvedSource, ...]:
    """Locate the sources of a setting.

    Raises:
        JobError: as `locate`.
    """
    rejoined = rejoin_commas(sources, variable, addressing_style)
    return tuple(locate(source, variable, addressing_style) for source in rejoined)


def fetch(located: ResolvedSource, folder: Path) -> LocalSource:
    """Download a remote source below `folder`, where a later attempt finds it again; a local one is used in place.

    Raises:
        DataError: an object's key cannot be a file name.
        JobError: the download failed.
    """
    if located.store is None:
        return LocalSource(located.name, located.uri, located.files, located.root, weight=located.weight)
    download_folder = folder / hashlib.sha256(located.uri.encode()).hexdigest()[:12]
    files = tuple(sorted(download(located.store, located.entries, download_folder)))
    is_folder = located.base_uri == located.uri.rstrip("/")
    return LocalSource(
        name=located.name,
        uri=located.uri,
        files=files,
        root=download_folder if is_folder else files[0],
        download_folder=download_folder,
        base_uri=located.base_uri,
        weight=located.weight,
    )


def locate_model(name: str, addressing_style: str = "auto", variable: str = "MNRL_BASE_MODEL") -> ResolvedSource | None:
    """Find the files of a model in a folder or prefix; None for a Hub id.

    Raises:
        NotFound: the folder does not exist, or has no weights.
        DeniedError: access is denied.
    """
    source = Source(variable.removeprefix("MNRL_").lower(), name)
    if is_remote(name):
        located = locate(source, variable, addressing_style)
        _check_model(variable, name, {entry.key for entry in located.entries})
        return located
    path = local_path(name, variable)
    with _explain_read_errors(variable):
        is_folder = path.is_dir()
    if is_folder:
        located = _locate_local(source, variable)
        _check_model(variable, name, {file.relative_to(path).as_posix() for file in located.files})
        return located
    repository, _ = split_revision(name)  # a revision may be refs/pr/1
    if not is_hub_id(name) or repository.count("/") > 1:
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
def _explain_read_errors(variable: str) -> Iterator[None]:
    """In containers the user is often not the owner of mounted files."""
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


def _locate_local(source: Source, variable: str) -> ResolvedSource:
    with _explain_read_errors(variable):
        located = _find_files(source, local_path(source.uri, variable))
        for file in located.files:
            file.open("rb").close()
            if not is_unicode(str(file)):
                raise DataError(f"{variable}: the file name {os.fsencode(file)!r} is not UTF-8; rename it")
    files = [file.absolute() for file in located.files]
    refuse_table_files([*map(str, files)], local_logs(files), f"{variable}: {source.uri}")
    return located


def _find_files(source: Source, path: Path) -> ResolvedSource:
    if path.is_file():
        return ResolvedSource(source.name, source.uri, (path,), path)
    if path.is_dir():
        root, paths = path, list(_walk(path))
    else:
        literal = WILDCARD.split(str(path), maxsplit=1)[0]
        root = Path(literal[: literal.rfind("/") + 1] or ".")
        matches = (glob.glob(pattern, recursive=True) for pattern in glob_variants(str(path)))
        paths = [Path(match) for match in next(filter(None, matches), [])]
    files = [file for file in paths if file.is_file() and not is_hidden(file.relative_to(root).as_posix())]
    return ResolvedSource(source.name, source.uri, tuple(sorted(files)), path)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, following links. Unlike `rglob`, it raises if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    visited: set[Path] = set()
    for path, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # Links may form cycles, or lead to the same folder.
        if (real := Path(path).resolve()) in visited:
            folders.clear()
            continue
        visited.add(real)
        # lost+found, at the root of a volume, is readable by root only. Sorted, so that every machine visits the
        # same one of several links to a folder.
        folders[:] = sorted(name for name in folders if name != "lost+found" and not is_hidden(name))
        yield from (Path(path) / name for name in names)


def _locate_remote(source: Source, variable: str, addressing_style: str) -> ResolvedSource:
    """The object; else all objects below the prefix (`b/a` is `b/a/…`, never `b/ab`); else those that match a glob."""
    bucket, _ = bucket_and_prefix(source.uri, variable)
    key = source.uri[len(S3) + len(bucket) + 1 :]
    folder, _, name = key.rpartition("/")
    base_uri = S3 + f"{bucket}/{folder}".strip("/")
    store = open_store(base_uri, variable, addressing_style)
    if name and (entry := store.stat(name)):
        located = ResolvedSource(source.name, source.uri, store=store, base_uri=base_uri, entries=(entry,))
        return _refuse_remote_tables(located, [], variable, addressing_style)
    store = store.join(name) if name else store
    listed = list(store.list_objects())
    wildcard = WILDCARD.search(key)
    if listed or not wildcard:
        entries = tuple(without_hidden(listed))
        base_uri = source.uri.rstrip("/")
    else:
        folder, _, name = key[: wildcard.start()].rpartition("/")
        base_uri = S3 + f"{bucket}/{folder}".strip("/")
        store = open_store(base_uri, variable, addressing_style)
        listed = list(store.list_objects(name))
        entries = tuple(filter_by_glob(without_hidden(listed), key.removeprefix(folder).lstrip("/")))
    located = ResolvedSource(source.name, source.uri, store=store, base_uri=base_uri, entries=entries)
    return _refuse_remote_tables(located, listed, variable, addressing_style)


def _refuse_remote_tables(
    located: ResolvedSource, listed: list[Entry], variable: str, addressing_style: str
) -> ResolvedSource:
    """Return `located`, unless a table's log among the `listed` objects or above them applies to its files."""
    bucket, prefix = bucket_and_prefix(located.base_uri, variable)
    root, base = open_store(S3 + bucket, variable, addressing_style), PurePosixPath(prefix)
    logs = chain((str(base / entry.key) for entry in listed), remote_logs(root, base / "any"))
    refuse_table_files([str(base / entry.key) for entry in located.entries], logs, f"{variable}: {located.uri}")
    return located
