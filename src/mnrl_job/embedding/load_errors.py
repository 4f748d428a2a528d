"""Why a model cannot be loaded: the Hub, the disk, the device, or the model itself."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.errors import DataError, DeniedError, EnvironmentFailure, JobError, NotFound, StorageError, first_line
from mnrl_job.storage import split_revision
from mnrl_job.system.git_lfs import is_lfs_pointer

# The base of all errors of the HTTP library that the Hub's client is built on, which has changed before.
NO_ANSWER = HfHubHTTPError.__bases__[0]
# No room by any library's words: some come without a number.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
BUSY = (408, 429)
# What the libraries say of a model whose code is not theirs, of a kind they do not know, of no vocabulary to be found.
OWN_CODE = "trust_remote_code"
UNKNOWN_KIND = re.compile(r"model type `([^`]*)` but Transformers does not recognize")
NO_PROCESSOR = "Unrecognized processing class"
NO_TOKENIZER = (NO_PROCESSOR, "Couldn't instantiate the backend tokenizer", "Can't load tokenizer")
SHOWN_CHARACTERS = 300
WRONG_WEIGHTS = re.compile(r"(?:Missing|Unexpected) key\(s\) in state_dict: .*")


def is_fault_of_device(error: BaseException) -> bool:
    """Whether it says nothing about the model: a GPU failed, or memory ran out."""
    if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError | MemoryError):
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
    error = _reason(error, name)
    for cause in _causes(error):
        if found := _from_hub(cause, told) or _from_system(cause, told) or _from_library(cause, told):
            return found
    reason = f"{told}: {first_line(error)}"
    if is_folder:
        return DataError(f"{reason}; the folder is damaged or holds no Sentence Transformers model")
    return NotFound(f"{reason}; give a model folder, or a Hub id that can be reached from here")


def refuse_pointers(folder: Path, told: str) -> None:
    """Refuse a folder that was cloned without Git LFS.

    Raises:
        DataError: naming the first file that is a pointer.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_lfs_pointer(path):
            raise DataError(
                f"{told}: {path.relative_to(folder)} is a Git LFS pointer, not the file; run git lfs pull where it was "
                "cloned"
            )


def _reason(error: Exception, name: str) -> Exception:
    """The library tries several kinds of processors and does not tell why each failed; so the tokenizer is asked."""
    if NO_PROCESSOR not in str(error):
        return error
    path, revision = split_revision(name)
    try:
        transformers.AutoTokenizer.from_pretrained(path, revision=revision or None)
    except Exception as reason:
        return reason
    return error


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
        return NotFound(f"{told}: the Hub has no such model, revision or file; give a Hub id (owner/name@revision)")
    if status in BUSY or status >= 500:
        return StorageError(f"{told}: the Hub answers {status}; start again when it does better")
    if not status and isinstance(error, NO_ANSWER | TimeoutError):
        reason = first_line(error)
        return StorageError(f"{told}: the Hub cannot be reached ({reason}); start again when it can, or give a folder")
    return None


def _from_system(error: BaseException, told: str) -> JobError | None:
    """What the operating system said: of the Hub's files in the cache, or of the folder."""
    if any(words in str(error) for words in FULL):
        return EnvironmentFailure(
            f"{told}: {constants.HF_HUB_CACHE} is full; free space, or set HF_HOME to a larger folder"
        )
    if isinstance(error, PermissionError):
        return DeniedError(f"{told}: user {os.geteuid()} may not use {error.filename}; grant it, or set HF_HOME")
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return StorageError(f"{told}: {error.filename}: {error.strerror}; mend the disk or mount, then start again")
    return None


def _from_library(error: BaseException, told: str) -> JobError | None:
    """What the model asks for that is not here: code of its own, a package, a vocabulary, weights."""
    text = str(error)
    if OWN_CODE in text:
        return DataError(f"{told}: it needs code of its own, which is not run; give a model that the libraries know")
    if kind := UNKNOWN_KIND.search(text):
        return DataError(
            f"{told}: transformers {transformers.__version__} does not know its kind, {kind[1]}: it needs code of its "
            "own, which is not run, or a newer release; give a model of a kind that is known"
        )
    if isinstance(error, ImportError):
        reason = " ".join(text.split())[:SHOWN_CHARACTERS]
        return EnvironmentFailure(
            f"{told}: it needs what is not installed: {reason}; install that, or give another model"
        )
    if isinstance(error, UnpicklingError):
        return DataError(
            f"{told}: its weights are a pickle that is broken or holds more than tensors, which may be code and is not "
            "run; give them as safetensors"
        )
    if any(words in text for words in NO_TOKENIZER):
        return DataError(
            f"{told}: it has no tokenizer files that can be read; give the model with those it was trained with"
        )
    if wrong := WRONG_WEIGHTS.search(text):
        return DataError(f"{told}: {wrong[0]}; give the model as it was published, with all its files")
    return None
