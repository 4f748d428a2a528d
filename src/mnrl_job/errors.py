"""All errors a run can end with, and their exit codes.

JobError
├── SettingsError      64   bad settings
├── DataError          65   unusable data
├── NotFound           66   an input does not exist
├── StorageError       69   storage unavailable            (retryable)
├── InternalError      70   a fault of the program         (retryable)
├── HangTimeout        71   no progress, or a node is lost (retryable)
├── PeerFailed         72   another node failed            (retryable)
├── Preempted          75   stopped on request             (retryable)
├── DeniedError        77   not allowed to read or write
├── EnvironmentFailure 78   no usable device, or no disk
├── OutOfMemory        79   out of device memory
├── GateError          80   trained, but below the gate, or significantly worse
└── Diverged           81   the loss became NaN or exploded
"""

import traceback
from collections.abc import Mapping
from typing import Any, ClassVar


class JobError(Exception):
    """A failure a user can act on. `str(error)` is one line: what failed, where, and the remedy.

    `details` are further entries of `failure.json`.
    """

    code: ClassVar[int] = 70
    kind: ClassVar[str] = "internal"
    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    def as_dict(self) -> dict[str, Any]:
        """The content of the termination log; `failure.json` also has the details."""
        return {"exit_code": self.code, "class": self.kind, "message": str(self), "retry_helps": self.retry_helps}


class SettingsError(JobError):
    code, kind = 64, "settings"


class DataError(JobError):
    code, kind = 65, "data"


class NotFound(JobError):
    code, kind = 66, "missing"


class StorageError(JobError):
    code, kind, retry_helps = 69, "storage", True


class InternalError(JobError):
    """A bug in this program. `trace` is the traceback of the worker in which it happened."""

    code, kind, retry_helps = 70, "internal", True

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class HangTimeout(JobError):
    code, kind, retry_helps = 71, "hang", True


class PeerFailed(JobError):
    """Another node failed; that node has the root cause and its code."""

    code, kind, retry_helps = 72, "peer_failed", True


class Preempted(JobError):
    code, kind, retry_helps = 75, "preempted", True


class DeniedError(JobError):
    code, kind = 77, "denied"


class EnvironmentFailure(JobError):
    code, kind = 78, "environment"


class OutOfMemory(JobError):
    code, kind = 79, "memory"


class GateError(JobError):
    """The model failed the gate; the run is published without `_SUCCESS`.

    `metrics` is the content of `metrics.json`, empty on all nodes but node 0.
    """

    code, kind = 80, "gate"

    def __init__(self, message: str, metrics: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.metrics = metrics


class Diverged(JobError):
    code, kind = 81, "diverged"


def by_kind(kind: str, message: str, trace: str = "", details: dict[str, Any] | None = None) -> JobError:
    """Rebuild the error that another process reported as `kind` and `message`."""
    for cls in JobError.__subclasses__():
        if cls.kind == kind and cls is not InternalError:
            return cls(message, details or {})
    return InternalError(message, trace)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def as_job_error(error: Exception) -> JobError:
    """The exception as a `JobError`; any other exception is an `InternalError` with its traceback."""
    if isinstance(error, JobError):
        return error
    return InternalError(f"{type(error).__name__}: {error}", traceback.format_exc())
