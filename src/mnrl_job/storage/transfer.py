"""Download and upload many objects: in parallel, resumable, verified."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from operator import call
from pathlib import Path, PurePosixPath

from mnrl_job.errors import DataError, StorageError
from mnrl_job.storage.base import PART_SIZE, PARTIAL, Entry, Store
from mnrl_job.storage.local import LocalStore
from mnrl_job.storage.part_tracker import PartTracker
from mnrl_job.system.files import file_lock, scratch_error, sha256_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import progress, warn
from mnrl_job.system.quantities import file_size, plural
from mnrl_job.system.threads import parallel

# Transfers of a file that arrives corrupted.
ATTEMPTS = 3
MAX_NAME_BYTES = 255

Advance = Callable[[int], None]
WriteGuard = Callable[[], AbstractContextManager[None]]


def download(store: Store, entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Make `folder` hold exactly these objects, each at its key.

    Files that are already there are kept, interrupted downloads are resumed.

    Raises:
        DataError: a key is not a valid file name below `folder`.
        EnvironmentFailure: the local disk is full.
        JobError: the checksum of an object does not match, or `folder` cannot be written.
    """
    targets = {entry: folder / file_name(store, entry.key) for entry in entries}
    _reject_conflicts(store, entries)
    partial_folder, total = folder / PARTIAL, sum(entry.size for entry in entries)
    try:
        partial_folder.mkdir(parents=True, exist_ok=True)
        with (
            file_lock(partial_folder / "lock"),
            progress(f"fetching {plural(len(entries), 'file')} ({file_size(total)})", total) as advance,
        ):
            _remove_stale(folder, set(targets.values()))

            def received(count: int) -> None:
                advance(count)
                heartbeat()

            small = [entry for entry in entries if entry.size <= PART_SIZE]
            parallel(lambda entry: _download_one(store, entry, targets[entry], partial_folder, received), small)
            for entry in entries:
                if entry.size > PART_SIZE:
                    _download_one(store, entry, targets[entry], partial_folder, received)
    except OSError as error:
        raise scratch_error(error, f"{store.label}: cannot write to {folder}") from error
    return list(targets.values())


def _remove_stale(folder: Path, expected: set[Path]) -> None:
    """Remove files of an earlier download whose objects are gone."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in expected and path.relative_to(folder).parts[0] != PARTIAL:
            path.unlink()


def _download_one(store: Store, entry: Entry, target: Path, partial_folder: Path, advance: Advance) -> None:
    if target.is_file() and target.stat().st_size == entry.size and store.matches_checksum(entry, target):
        advance(entry.size)
        return
    name = hashlib.sha256(f"{entry.key}\n{entry.version}\n{entry.size}".encode()).hexdigest()
    partial, parts_log = partial_folder / name, partial_folder / f"{name}.parts"
    for _ in range(ATTEMPTS):
        if _download_verified(store, entry, partial, parts_log, advance):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            return
        warn(f"{entry.key}: checksum mismatch, retrying")
        partial.unlink()
    raise StorageError(
        f"{store.label}/{entry.key}: checksum mismatch after {ATTEMPTS} downloads; "
        "check the network and the object, then start again"
    )


def _download_verified(store: Store, entry: Entry, path: Path, parts_log: Path, advance: Advance) -> bool:
    """Download an object and compare its checksum, for a large one while it is downloaded."""
    with path.open("ab") as handle:
        handle.truncate(entry.size)
    tracker = PartTracker(entry.size, PART_SIZE)

    def fetch() -> None:
        try:
            _download_parts(store, entry, path, parts_log, tracker, advance)
        finally:
            tracker.abort()

    def verify() -> bool | None:
        with suppress(EOFError):  # `fetch` raises the cause
            return store.matches_checksum(entry, path, tracker.wait)
        return None

    if entry.size > PART_SIZE:
        _, matches = parallel(call, [fetch, verify])
    else:
        fetch()
        matches = verify()
    parts_log.unlink(missing_ok=True)
    return matches is not False


def _download_parts(
    store: Store, entry: Entry, path: Path, parts_log: Path, tracker: PartTracker, advance: Advance
) -> None:
    """Download the parts that the log does not list as complete."""
    complete = set(parts_log.read_text().split()) if parts_log.exists() else set()

    def fetch(start: int) -> None:
        stop = min(start + PART_SIZE, entry.size)
        if str(start) in complete:
            advance(stop - start)
        else:
            # Not a shared handle: a thread that outlives a failure must not write to a file opened later.
            with path.open("r+b") as handle:
                handle.seek(start)
                for chunk in store.read(entry, start, stop):
                    handle.write(chunk)
                    advance(len(chunk))
            if entry.size > PART_SIZE:
                with parts_log.open("a") as log:
                    log.write(f"{start} ")
        tracker.mark(start)

    if entry.size > PART_SIZE:
        parallel(fetch, range(0, entry.size, PART_SIZE))
    else:
        fetch(0)


def upload(store: Store, files: Mapping[str, Path], guard: WriteGuard = nullcontext) -> dict[str, str]:
    """Create objects from files and read every byte back. Returns the SHA-256 of each file by key.

    `guard` is entered around each write; it raises if this process may no longer write.

    Raises:
        StorageError: the verification of an upload failed.
    """
    sizes = {key: path.stat().st_size for key, path in files.items()}
    large = [key for key, size in sizes.items() if size > PART_SIZE]
    digests: dict[str, str] = {}
    total, verb = sum(sizes.values()), "saving" if isinstance(store, LocalStore) else "uploading"
    with progress(f"{verb} {plural(len(files), 'file')} ({file_size(total)})", 2 * total) as advance:

        def digest(key: str) -> None:
            digests[key] = sha256_of([files[key]])

        def send(key: str) -> None:
            _upload_one(store, key, files[key], guard, advance)

        small = [key for key in sizes if key not in large]
        parallel(digest, small)
        parallel(send, small)
        for key in large:
            parallel(call, [partial(digest, key), partial(send, key)])
    return digests


def _upload_one(store: Store, key: str, path: Path, guard: WriteGuard, advance: Advance) -> None:
    size = path.stat().st_size
    for _ in range(ATTEMPTS):
        with guard():
            created = store.create(key, path)
        entry = created or store.stat(key)
        advance(size)
        if entry and entry.size == size and verify_upload(store, entry, path):
            advance(size)
            return
        warn(f"{key}: upload verification failed, retrying")
        with guard():
            store.delete(key)
    raise StorageError(
        f"{store.label}/{key}: upload verification failed {ATTEMPTS} times; check disk and network, then start again"
    )


def verify_upload(store: Store, entry: Entry, path: Path) -> bool:
    """Whether an object, read back, equals a file byte by byte."""

    def part_matches(start: int) -> bool:
        stop = min(start + PART_SIZE, entry.size)
        with path.open("rb", buffering=0) as handle:
            handle.seek(start)
            return all(chunk == handle.read(len(chunk)) for chunk in store.read(entry, start, stop))

    starts = range(0, entry.size, PART_SIZE)
    return all(parallel(part_matches, starts) if len(starts) > 1 else map(part_matches, starts))


def file_name(store: Store, key: str) -> PurePosixPath:
    """The key as a relative path.

    Raises:
        DataError: it leads out of the folder, or is not a valid file name.
    """
    parts = key.split("/")
    unsafe = (
        any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts)
        or parts[0] == PARTIAL
        or any(unicodedata.category(character) == "Cc" for character in key)
    )
    if unsafe:
        raise DataError(
            f"{store.label}: the key {key!r} is not a valid file name; expected names of at most "
            f"{MAX_NAME_BYTES} bytes between single slashes, without '..' or control characters"
        )
    return PurePosixPath(key)


def _reject_conflicts(store: Store, entries: Sequence[Entry]) -> None:
    keys = {entry.key for entry in entries}
    for key in sorted(keys):
        for parent in PurePosixPath(key).parents:
            if str(parent) in keys:
                raise DataError(
                    f"{store.label}: {str(parent)!r} and {key!r} conflict as local files; rename one of them"
                )
