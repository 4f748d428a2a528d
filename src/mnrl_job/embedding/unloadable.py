"""Why a model cannot be loaded: the Hub, the disk, the device, or the model itself."""

import errno
import os
from collections.abc import Iterator

import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from mnrl_job.errors import DataError, DeniedError, DeviceError, JobError, MissingError, StorageError, first_line

# The base of all errors of the HTTP library that the Hub's client is built on, which has changed before.
NO_ANSWER = HfHubHTTPError.__bases__[0]
# No room by any library's words: some come without a number.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
BUSY = (408, 429)


def is_fault_of_device(error: BaseException) -> bool:
    """Whether it says nothing about the model: a GPU failed, or memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def explain(error: Exception, name: str, variable: str, is_folder: bool) -> JobError:
    """Which of our errors it is. Libraries wrap the cause several times, so the first one that explains itself counts.

    Args:
        error: what loading raised.
        name: of the model, as given.
        variable: the setting that names it.
        is_folder: whether it is on this machine.
    """
    told = f"{variable}: {name} cannot be loaded"
    for cause in _causes(error):
        if found := _from_hub(cause, told) or _from_system(cause, told):
            return found
    reason = f"{told}: {first_line(error)}"
    if is_folder:
        return DataError(f"{reason}; the folder is damaged or holds no Sentence Transformers model")
    return MissingError(f"{reason}; give a model folder, or a Hub id that can be reached from here")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _from_hub(error: BaseException, told: str) -> JobError | None:
    """What the Hub answered, or that it did not."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403):
        return DeniedError(
            f"{told}: the Hub answers {status}, so it is not public, or not there; check its name, ask for access on "
            "its page, and set HF_TOKEN to a token that may read it"
        )
    if status == 404:
        return MissingError(f"{told}: the Hub has no such model, revision or file; give a Hub id (owner/name@revision)")
    if status in BUSY or status >= 500:
        return StorageError(f"{told}: the Hub answers {status}; start again when it does better")
    if not status and isinstance(error, NO_ANSWER | TimeoutError):
        reason = first_line(error)
        return StorageError(f"{told}: the Hub cannot be reached ({reason}); start again when it can, or give a folder")
    return None


def _from_system(error: BaseException, told: str) -> JobError | None:
    """What the operating system said: of the Hub's files in the cache, or of the folder."""
    if any(words in str(error) for words in FULL):
        return DeviceError(f"{told}: {constants.HF_HUB_CACHE} is full; free space, or set HF_HOME to a larger folder")
    if isinstance(error, PermissionError):
        return DeniedError(f"{told}: user {os.geteuid()} may not use {error.filename}; grant it, or set HF_HOME")
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return StorageError(f"{told}: {error.filename}: {error.strerror}; mend the disk or mount, then start again")
    return None
