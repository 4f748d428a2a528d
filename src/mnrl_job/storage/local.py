"""A local folder as a store, with atomic and exclusive writes that are flushed to disk."""

import filecmp
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mnrl_job.errors import StorageError
from mnrl_job.storage.base import CHUNK, PARTIAL, Entry
from mnrl_job.storage.part_tracker import Wait
from mnrl_job.system.files import CANNOT_RENAME, atomic_write, flush, storage_error

FOLDER_ATTEMPTS = 20

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Files below `root`."""

    root: Path
    label: str

    def join(self, name: str) -> "LocalStore":
        return LocalStore(self.root / name, f"{self.label.rstrip('/')}/{name}")

    def list_objects(self, prefix: str = "") -> Iterator[Entry]:
        with self._translate_errors("cannot read"):
            for folder, folders, names in os.walk(self.root, onerror=_raise_unless_missing):
                folders[:] = sorted(name for name in folders if name != PARTIAL)
                for name in sorted(names):
                    key = (Path(folder) / name).relative_to(self.root).as_posix()
                    if key.startswith(prefix) and not name.endswith(PARTIAL) and (entry := self.stat(key)):
                        yield entry

    def list_folders(self) -> Iterator[str]:
        with self._translate_errors("cannot read"), suppress(FileNotFoundError), os.scandir(self.root) as entries:
            yield from (entry.name for entry in entries if entry.is_dir())

    def stat(self, key: str) -> Entry | None:
        with self._translate_errors("cannot read"):
            try:
                status = (self.root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(status.st_mode):
                return None
            return Entry(key, status.st_size, f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}")

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        remaining = (entry.size if stop is None else stop) - start
        with self._translate_errors("cannot read"), (self.root / entry.key).open("rb", buffering=0) as handle:
            handle.seek(start)
            while remaining > 0:
                if not (chunk := handle.read(min(CHUNK, remaining))):
                    raise StorageError(f"{self.label}/{entry.key}: truncated while being read; start again")
                remaining -= len(chunk)
                yield chunk

    def write(self, key: str, data: bytes) -> None:
        with self._translate_errors("cannot write"):
            target = self.root / key
            _retry_with_folders([target.parent], lambda: atomic_write(target, data))

    def create(self, key: str, source: Path | bytes) -> Entry | None:
        with self._translate_errors("cannot write"):
            target, temporary = self.root / key, self.root / PARTIAL / uuid.uuid4().hex

            def copy_and_move() -> bool:
                _copy(source, temporary, "wb")
                return _move_if_absent(temporary, target)

            try:
                created = _retry_with_folders([target.parent, temporary.parent], copy_and_move)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                    temporary.parent.rmdir()
            flush(target.parent)
            return self.stat(key) if created else None

    def matches_checksum(self, entry: Entry, path: Path, wait: Wait = lambda _: None) -> bool | None:
        wait(entry.size)
        with self._translate_errors("cannot read"):
            return filecmp.cmp(self.root / entry.key, path, shallow=False)

    def delete(self, key: str) -> None:
        with self._translate_errors("cannot delete"):
            path = self.root / key
            path.unlink(missing_ok=True)
            with suppress(OSError):  # like an S3 prefix, a folder goes with its last object
                while path != self.root:
                    path = path.parent
                    path.rmdir()

    def remove_incomplete(self) -> None:
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        for path in self.root.rglob(f".*{PARTIAL}"):
            with suppress(OSError):
                path.unlink()

    @contextmanager
    def _translate_errors(self, message: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(error, f"{self.label}: {message}") from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _retry_with_folders(folders: list[Path], action: Callable[[], Result]) -> Result:
    """Run `action` in folders that another process may remove at any moment because they are empty."""
    for _ in range(FOLDER_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):  # the latter: removed while mkdir checks for it
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            return action()
    return action()


def _copy(source: Path | bytes, target: Path, mode: str) -> None:
    if isinstance(source, bytes):
        with target.open(mode) as writer:
            writer.write(source)
    else:
        with source.open("rb") as reader, target.open(mode) as writer:
            shutil.copyfileobj(reader, writer, CHUNK)
    flush(target)


def _move_if_absent(temporary: Path, target: Path) -> bool:
    """Move unless the target exists: by a hard link, which is atomic and exclusive, or the best the mount can do."""
    try:
        os.link(temporary, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in CANNOT_RENAME:
            raise
    if target.exists():
        return False
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in CANNOT_RENAME:
            raise
        try:
            _copy(temporary, target, "xb")
        except FileExistsError:
            return False
    return True
