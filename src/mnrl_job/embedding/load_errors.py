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

# The base error of the HTTP library that the Hub's client uses, which has changed before.
HTTP_ERROR = HfHubHTTPError.__bases__[0]
# Some libraries raise disk-full errors without an errno.
DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
BUSY = (408, 429)
# Messages of the libraries about models with custom code, unknown architectures and missing vocabularies.
CUSTOM_CODE = "trust_remote_code"
UNKNOWN_MODEL_TYPE = re.compile(r"model type `([^`]*)` but Transformers does not recognize")
NO_PROCESSOR = "Unrecognized processing class"
NO_TOKENIZER = (NO_PROCESSOR, "Couldn't instantiate the backend tokenizer", "Can't load tokenizer")
SHOWN_CHARACTERS = 300
WRONG_WEIGHTS = re.compile(r"(?:Missing|Unexpected) key\(s\) in state_dict: .*")


def is_fault_of_device(error: BaseException) -> bool:
    """Whether the cause is the device, not the model: a GPU failed, or memory ran out."""
    if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def explain(error: Exception, name: str, variable: str, is_folder: bool) -> JobError:
    """Convert an error of the libraries. They wrap causes several times; the first known one in the chain counts.

    `is_folder`: whether the model is on this machine.
    """
    subject = f"{variable}: {name} cannot be loaded"
    error = _tokenizer_error(error, name)
    for cause in _causes(error):
        if result := _from_hub(cause, subject) or _from_system(cause, subject) or _from_library(cause, subject):
            return result
    reason = f"{subject}: {first_line(error)}"
    if is_folder:
        return DataError(f"{reason}; the folder is damaged or not a Sentence Transformers model")
    return NotFound(f"{reason}; use a model folder, or a Hub id that can be reached from here")


def refuse_pointers(folder: Path, subject: str) -> None:
    """Refuse a folder that was cloned without Git LFS.

    Raises:
        DataError: naming the first file that is a pointer.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_lfs_pointer(path):
            raise DataError(
                f"{subject}: {path.relative_to(folder)} is a Git LFS pointer, not the file; run git lfs pull where it "
                "was cloned"
            )


def _tokenizer_error(error: Exception, name: str) -> Exception:
    """The library tries several kinds of processors and hides why each failed, so load the tokenizer alone."""
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


def _from_hub(error: BaseException, subject: str) -> JobError | None:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403):
        return DeniedError(
            f"{subject}: the Hub returned {status}, so it is not public or does not exist; check its name, request "
            "access on its page, and set HF_TOKEN to a token that may read it"
        )
    if status == 404:
        return NotFound(f"{subject}: the Hub has no such model, revision or file; use a Hub id (owner/name@revision)")
    if status in BUSY or status >= 500:
        return StorageError(f"{subject}: the Hub returned {status}; retry later")
    if not status and isinstance(error, HTTP_ERROR | TimeoutError):
        reason = first_line(error)
        return StorageError(f"{subject}: the Hub cannot be reached ({reason}); retry later, or use a folder")
    return None


def _from_system(error: BaseException, subject: str) -> JobError | None:
    if any(message in str(error) for message in DISK_FULL):
        return EnvironmentFailure(
            f"{subject}: {constants.HF_HUB_CACHE} is full; free space, or set HF_HOME to a larger folder"
        )
    if isinstance(error, PermissionError):
        return DeniedError(
            f"{subject}: user {os.geteuid()} has no permission for {error.filename}; grant it, or set HF_HOME"
        )
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return StorageError(f"{subject}: {error.filename}: {error.strerror}; fix the disk or mount, then retry")
    return None


def _from_library(error: BaseException, subject: str) -> JobError | None:
    """What the model requires and does not find: custom code, a package, a vocabulary, weights."""
    text = str(error)
    if CUSTOM_CODE in text:
        return DataError(
            f"{subject}: it requires custom code, which is never run; use a model that the libraries support"
        )
    if model_type := UNKNOWN_MODEL_TYPE.search(text):
        return DataError(
            f"{subject}: transformers {transformers.__version__} does not support its model type {model_type[1]}: it "
            "requires custom code, which is never run, or a newer release; use a model of a supported type"
        )
    if isinstance(error, ImportError):
        reason = " ".join(text.split())[:SHOWN_CHARACTERS]
        return EnvironmentFailure(
            f"{subject}: it requires a package that is not installed: {reason}; install it, or use another model"
        )
    if isinstance(error, UnpicklingError):
        return DataError(
            f"{subject}: its weights are a pickle that is corrupt or contains more than tensors, which may be code and "
            "is never run; convert them to safetensors"
        )
    if any(message in text for message in NO_TOKENIZER):
        return DataError(
            f"{subject}: it has no tokenizer files that can be read; use the model with its original tokenizer files"
        )
    if wrong := WRONG_WEIGHTS.search(text):
        return DataError(f"{subject}: {wrong[0]}; use the model as it was published, with all its files")
    return None
