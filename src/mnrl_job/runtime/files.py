"""Files on a local disk: hashed, and written whole or not at all."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mnrl_job.errors import DeniedError, JobError, SettingsError, StorageError

CHUNK = 1 << 20


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def copy_whole(source: Path, target: Path) -> str:
    """Copy a file so that a reader never sees a part of it.

    Returns:
        The SHA-256 of what was read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, _whole(target) as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def write_whole(target: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with _whole(target) as writer:
        writer.write(text.encode())


@contextmanager
def _whole(target: Path) -> Iterator[IO[bytes]]:
    """Write beside the target, flush to disk, then rename; what cannot be finished is removed."""
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with temporary.open("wb") as writer:
            yield writer
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def writable_folder(folder: Path, variable: str) -> Path:
    """Create `folder` and prove that it can be written.

    Raises:
        SettingsError: part of the path is a file.
        DeniedError: it may not be written.
        StorageError: the disk or mount fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"mnrl-job")
        probe.unlink()
    except OSError as error:
        raise storage_error(error, f"{variable}: cannot write to {folder}") from error
    return folder


def storage_error(error: OSError, what: str) -> JobError:
    """Which of our errors an operating-system error is."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
        return SettingsError(f"{message}; name a folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(f"{message}; grant this user write access or name another folder")
    return StorageError(f"{message}; free space or mend the mount, then start again")
