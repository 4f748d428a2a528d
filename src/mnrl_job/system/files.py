"""Files on a local disk: hashed, written whole or not at all, and scratch that nobody leaves behind."""

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
# What a mount answers that has no links, or no renaming (object stores behind FUSE, some network shares).
CANNOT_RENAME = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.EINVAL}


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def atomic_write(target: Path, data: bytes) -> None:
    """Write a small file beside its place, flush it to disk, then rename; what cannot be finished is removed."""
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


def hold(source: Path, target: Path) -> None:
    """Have a file under a second name, which outlives the first: by a link, or a copy where the mount has no links.

    Raises:
        FileNotFoundError: it is gone already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_RENAME:
            raise
        shutil.copyfile(source, target)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or a folder's names. Some mounts cannot; that is no failure."""
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
    """Wait until no other process of this machine holds this lock. A mount without locks does without."""
    with path.open("w") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A folder of this process's own, removed at its end; so are those beside it whose processes were killed.

    A process holds a lock on its folder as long as it lives. Where a mount has no locks, nothing else is removed.

    Raises:
        JobError: the disk is full, or the mount fails.
    """
    try:
        beside = parent or Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        told = "no folder for temporary files can be written (TMPDIR, /tmp, the current one)"
        raise EnvironmentFailure(f"{told}; mount one there, or name one by MNRL_WORK_DIR") from error
    with ExitStack() as stack:
        with try_lock(beside):  # nobody finds a folder before it is held
            for left in beside.glob(f"{SCRATCH}*"):
                with suppress(OSError), try_lock(left, fcntl.LOCK_NB) as nobodys:
                    if nobodys:
                        shutil.rmtree(left)
            try:
                own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=parent)))
            except OSError as error:
                raise scratch_error(error, f"cannot make a folder in {beside}") from error
            stack.enter_context(try_lock(own))
        yield own


@contextmanager
def try_lock(folder: Path, how: int = 0) -> Iterator[bool]:
    """Whether this process got the lock on a folder, for as long as it is inside."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def writable_folder(folder: Path, variable: str) -> Path:
    """Create `folder` and prove that it can be written.

    Raises:
        SettingsError: part of the path is a file.
        DeniedError: it may not be written.
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


def scratch_error(error: OSError, what: str) -> JobError:
    """The same where a machine's own disk is meant: that one is full is a matter of the environment."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFailure(f"{what}: {error.strerror}; free space, or name a larger MNRL_WORK_DIR")
    return storage_error(error, what)


def storage_error(error: OSError, what: str) -> JobError:
    """Which of our errors an operating-system error is."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
        return SettingsError(f"{message}; name a folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(f"{message}; grant this user write access or name another folder")
    return StorageError(f"{message}; free space or mend the mount, then start again")
