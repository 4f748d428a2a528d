"""Local files: hashes, atomic writes, locks, scratch folders, and the meaning of OS errors."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mnrl_job.errors import DeniedError, EnvironmentFailure, JobError, SettingsError, StorageError

CHUNK = 1 << 20
SCRATCH = "mnrl-job-"
# Errors of mounts without hard links or renames (object stores behind FUSE, some network shares).
CANNOT_RENAME = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.EINVAL}


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 of the concatenated files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def atomic_write(target: Path, data: bytes) -> None:
    """Write a small file under a temporary name, flush it to disk, then rename it."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno not in CANNOT_RENAME:
                raise
            target.write_bytes(data)
            flush(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the mount has no links.

    Raises:
        FileNotFoundError: the source does not exist.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_RENAME:
            raise
        shutil.copyfile(source, target)


def flush(path: Path) -> None:
    """Call fsync on a file or folder, where the mount supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock between the processes of this machine. Does nothing on a mount without locks."""
    with path.open("w") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A scratch folder of this process, removed at the end, as are those of killed processes.

    A process locks its folder while it runs. On a mount without locks no other folder is removed.

    Raises:
        JobError: the disk is full, or the mount fails.
    """
    try:
        base = parent or Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        message = "no writable folder for temporary files (TMPDIR, /tmp, the current folder)"
        raise EnvironmentFailure(f"{message}; mount one there, or set MNRL_WORK_DIR") from error
    with ExitStack() as stack:
        with try_lock(base):  # no other process sees a new folder before it is locked
            for stale in base.glob(f"{SCRATCH}*"):
                with suppress(OSError), try_lock(stale, fcntl.LOCK_NB) as locked:
                    if locked:
                        shutil.rmtree(stale)
            try:
                own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=parent)))
            except OSError as error:
                raise scratch_error(error, f"cannot create a folder in {base}") from error
            stack.enter_context(try_lock(own))
        yield own


@contextmanager
def try_lock(folder: Path, flags: int = 0) -> Iterator[bool]:
    """Lock a folder for the context; yields whether that succeeded."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def writable_folder(folder: Path, variable: str) -> Path:
    """Create `folder` and check that it is writable.

    Raises:
        SettingsError: part of the path is a file.
        DeniedError: no write permission.
        EnvironmentFailure: the disk is full.
        StorageError: the disk or mount fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"mnrl-job")
        probe.unlink()
    except OSError as error:
        raise scratch_error(error, f"{variable}: cannot write to {folder}") from error
    return folder


def scratch_error(error: OSError, action: str) -> JobError:
    """Like `storage_error` for the local disk: a full one is an EnvironmentFailure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFailure(f"{action}: {error.strerror}; free space, or set MNRL_WORK_DIR to a larger disk")
    return storage_error(error, action)


def storage_error(error: OSError, action: str) -> JobError:
    message = f"{action}: {error.strerror or error}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
        return SettingsError(f"{message}; name a folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(f"{message}; grant this user write access or name another folder")
    return StorageError(f"{message}; free space or fix the mount, then start again")
