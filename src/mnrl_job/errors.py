"""Every way a run can end badly, with the exit code the scheduler sees.

JobError
├── SettingsError      64   bad settings
├── DataError          65   unusable data
├── NotFound           66   an input does not exist
├── StorageError       69   storage unavailable            (a retry can help)
├── InternalError      70   a fault of the program         (a retry can help)
├── HangTimeout        71   no progress, or a node is lost (a retry can help)
├── PeerFailed         72   another node failed            (a retry can help)
├── Preempted          75   stopped on request             (a retry can help)
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
    """A failure a user can act on. `str(error)` is one clear line: what, where, what would be right.

    `details` are facts for `failure.json` that do not fit into a line.
    """

    code: ClassVar[int] = 70
    kind: ClassVar[str] = "internal"
    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    def as_dict(self) -> dict[str, Any]:
        """What the termination log holds, and `failure.json` beside the details."""
        return {
            "exit_code": self.code,
            "class": self.kind,
            "message": str(self),
            "retry_helps": self.retry_helps,
        }


class SettingsError(JobError):
    code, kind = 64, "settings"


class DataError(JobError):
    code, kind = 65, "data"


class NotFound(JobError):
    code, kind = 66, "missing"


class StorageError(JobError):
    code, kind, retry_helps = 69, "storage", True


class InternalError(JobError):
    """A fault of ours. Where it happened in a worker, `trace` holds that worker's traceback."""

    code, kind, retry_helps = 70, "internal", True

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class HangTimeout(JobError):
    code, kind, retry_helps = 71, "hang", True


class PeerFailed(JobError):
    """Told that another node failed; the cause, with its own code, is there."""

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
    """The run is kept for whoever wants to look, without `_SUCCESS`; `content` is that of its `metrics.json`.

    It is empty on nodes that were only told.
    """

    code, kind = 80, "gate"

    def __init__(self, message: str, content: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.content = content


class Diverged(JobError):
    code, kind = 81, "diverged"


def by_kind(kind: str, message: str, trace: str = "", details: dict[str, Any] | None = None) -> JobError:
    """Rebuild the error that another process wrote down as `kind` and `message`."""
    for cls in JobError.__subclasses__():
        if cls.kind == kind and cls is not InternalError:
            return cls(message, details or {})
    return InternalError(message, trace)


def first_line(error: BaseException) -> str:
    """What a library's exception says, on one line; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def as_job_error(error: Exception) -> JobError:
    """Which failure an exception means: what is none of ours is a fault of the program, with its traceback."""
    if isinstance(error, JobError):
        return error
    return InternalError(f"{type(error).__name__}: {error}", traceback.format_exc())
