"""Files on a local disk: hashed, and written whole or not at all."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

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


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file beside its target, flush it to disk, then rename: a reader never sees a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    with source.open("rb") as reader, temporary.open("wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
        writer.flush()
        os.fsync(writer.fileno())
    temporary.replace(target)


def write_whole(target: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    temporary = target.with_name(f".{target.name}.partial")
    with temporary.open("w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(writer.fileno())
    temporary.replace(target)


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
