"""Many objects at once, down and up: in parallel, resumable, verified."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from operator import call
from pathlib import Path, PurePosixPath

from mnrl_job.errors import DataError, StorageError
from mnrl_job.storage.base import PART_SIZE, PARTIAL, Entry, Store
from mnrl_job.storage.part_tracker import PartTracker
from mnrl_job.system.files import file_lock, scratch_error, sha256_of
from mnrl_job.system.heartbeat import heartbeat
from mnrl_job.system.logs import progress, warn
from mnrl_job.system.threads import parallel

# How often a file is sent or fetched again when it arrived as something else.
TRIES = 3
LONGEST_NAME = 255

Advance = Callable[[int], None]
Writing = Callable[[], AbstractContextManager[None]]


def download(store: Store, entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Have just these objects in `folder`, each at its key; what is there is not fetched again, a cut is continued.

    Raises:
        DataError: a key cannot be a file name below `folder`.
        EnvironmentFailure: the local disk is full.
        JobError: an object does not arrive as the store's checksum says, or `folder` cannot be written.
    """
    targets = {entry: folder / _file_name(store, entry.key) for entry in entries}
    _refuse_conflicts(store, entries)
    unfinished = folder / PARTIAL
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with (
            file_lock(unfinished / "lock"),
            progress(f"fetching {len(entries)} file(s)", sum(entry.size for entry in entries)) as advance,
        ):
            _remove_others(folder, set(targets.values()))

            def arrived(count: int) -> None:
                advance(count)
                heartbeat()

            small = [entry for entry in entries if entry.size <= PART_SIZE]
            parallel(lambda entry: _fetch(store, entry, targets[entry], unfinished, arrived), small)
            for entry in entries:
                if entry.size > PART_SIZE:
                    _fetch(store, entry, targets[entry], unfinished, arrived)
    except OSError as error:
        raise scratch_error(error, f"{store.label}: cannot write to {folder}") from error
    return list(targets.values())


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    """Files of an earlier fetch that are not there any more: nobody must read them."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted and path.relative_to(folder).parts[0] != PARTIAL:
            path.unlink()


def _fetch(store: Store, entry: Entry, target: Path, unfinished: Path, advance: Advance) -> None:
    if target.is_file() and target.stat().st_size == entry.size and store.matches_checksum(entry, target):
        advance(entry.size)
        return
    name = hashlib.sha256(f"{entry.key}\n{entry.version}\n{entry.size}".encode()).hexdigest()
    arriving, journal = unfinished / name, unfinished / f"{name}.pieces"
    for _ in range(TRIES):
        if _arrives(store, entry, arriving, journal, advance):
            target.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(target)
            return
        warn(f"{entry.key} did not arrive as its checksum says; fetching it again")
        arriving.unlink()
    raise StorageError(
        f"{store.label}/{entry.key}: fetched {TRIES} times, never as its checksum says; "
        "look at the network or the object, then start again"
    )


def _arrives(store: Store, entry: Entry, path: Path, journal: Path, advance: Advance) -> bool:
    """Fetch an object and compare its checksum, a large one's while it arrives."""
    with path.open("ab") as handle:
        handle.truncate(entry.size)
    arrival = PartTracker(entry.size, PART_SIZE)

    def fetch() -> None:
        try:
            _fetch_pieces(store, entry, path, journal, arrival, advance)
        finally:
            arrival.give_up()

    def compare() -> bool | None:
        with suppress(EOFError):  # why it did not arrive, `fetch` tells
            return store.matches_checksum(entry, path, arrival.wait)
        return None

    if entry.size > PART_SIZE:
        _, same = parallel(call, [fetch, compare])
    else:
        fetch()
        same = compare()
    journal.unlink(missing_ok=True)
    return same is not False


def _fetch_pieces(
    store: Store, entry: Entry, path: Path, journal: Path, arrival: PartTracker, advance: Advance
) -> None:
    """Fetch what the journal does not have. It says which pieces are there; the checksum has the last word."""
    have = set(journal.read_text().split()) if journal.exists() else set()

    def fetch(start: int) -> None:
        stop = min(start + PART_SIZE, entry.size)
        if str(start) in have:
            advance(stop - start)
        else:
            # A handle of its own: a thread that outlives a failure must not write to what is opened next.
            with path.open("r+b") as handle:
                handle.seek(start)
                for chunk in store.read(entry, start, stop):
                    handle.write(chunk)
                    advance(len(chunk))
            if entry.size > PART_SIZE:
                with journal.open("a") as log:
                    log.write(f"{start} ")
        arrival.mark(start)

    if entry.size > PART_SIZE:
        parallel(fetch, range(0, entry.size, PART_SIZE))
    else:
        fetch(0)


def upload(store: Store, files: Mapping[str, Path], writing: Writing = nullcontext) -> dict[str, str]:
    """Create objects from files and read every byte back.

    Args:
        store: where to.
        files: the files by their keys.
        writing: entered for each write; raises where this process may not write any more.

    Returns:
        The SHA-256 of each file by its key.

    Raises:
        StorageError: an object does not read back as it was sent.
    """
    sizes = {key: path.stat().st_size for key, path in files.items()}
    large = [key for key, size in sizes.items() if size > PART_SIZE]
    digests: dict[str, str] = {}

    def digest(key: str) -> None:
        digests[key] = sha256_of([files[key]])

    with progress(f"uploading {len(files)} file(s)", 2 * sum(sizes.values())) as advance:

        def send(key: str) -> None:
            _send(store, key, files[key], writing, advance)

        def both(key: str) -> None:
            digest(key)
            send(key)

        parallel(both, [key for key in sizes if key not in large])
        for key in large:
            parallel(call, [partial(digest, key), partial(send, key)])
    return digests


def _send(store: Store, key: str, path: Path, writing: Writing, advance: Advance) -> None:
    size = path.stat().st_size
    for _ in range(TRIES):
        with writing():
            created = store.create(key, path)
        entry = created or store.stat(key)
        advance(size)
        if entry and entry.size == size and verify_upload(store, entry, path):
            advance(size)
            return
        warn(f"{key} does not read back as it was sent; sending it again")
        with writing():
            store.delete(key)
    raise StorageError(
        f"{store.label}/{key}: sent {TRIES} times, never read back the same; mend disk or network, then start again"
    )


def verify_upload(store: Store, entry: Entry, path: Path) -> bool:
    """Whether an object is, byte by byte, what stands in a file."""

    def same(start: int) -> bool:
        stop = min(start + PART_SIZE, entry.size)
        with path.open("rb", buffering=0) as handle:
            handle.seek(start)
            return all(chunk == handle.read(len(chunk)) for chunk in store.read(entry, start, stop))

    starts = range(0, entry.size, PART_SIZE)
    return all(parallel(same, starts) if len(starts) > 1 else map(same, starts))


def _file_name(store: Store, key: str) -> PurePosixPath:
    """A key as a path below a folder.

    Raises:
        DataError: it would leave the folder, or can be no file name.
    """
    parts = key.split("/")
    unsafe = (
        any(part in ("", ".", "..") or len(part.encode()) > LONGEST_NAME for part in parts)
        or parts[0] == PARTIAL
        or any(unicodedata.category(character) == "Cc" for character in key)
    )
    if unsafe:
        raise DataError(
            f"{store.label}: the key {key!r} can be no file here; expected names of at most {LONGEST_NAME} bytes "
            "between single slashes, without '..' or control characters"
        )
    return PurePosixPath(key)


def _refuse_conflicts(store: Store, entries: Sequence[Entry]) -> None:
    keys = {entry.key for entry in entries}
    for key in sorted(keys):
        for parent in PurePosixPath(key).parents:
            if str(parent) in keys:
                raise DataError(f"{store.label}: {str(parent)!r} and {key!r} cannot be both here; rename one of them")
