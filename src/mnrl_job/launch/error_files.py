"""Error files of workers, and the root cause of several failures."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mnrl_job.errors import InternalError, JobError, OutOfMemory, by_kind
from mnrl_job.system.logs import warn
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.system.secrets import redact, redacted

ERROR_FILE = "MNRL_JOB_ERROR_FILE"
WAIT_FOR_TASK = "MNRL_JOB_WAIT_FOR_TASK"


@dataclass(frozen=True, slots=True)
class WorkerError:
    """Why a worker failed, written by that worker at the monotonic time `at`, which orders cause and consequence."""

    kind: str
    message: str
    trace: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)


def root_cause(folder: Path, codes: Sequence[int | None], oom_kills: int = 0) -> JobError:
    """The first error that is not internal; else a worker that was killed; else the first internal error.

    When one worker is gone, the others fail too: their collectives break, or their runtime aborts them. Exit codes are
    by rank, negative for a signal; `oom_kills` counts processes that the kernel killed meanwhile.
    """
    errors = sorted((read_record(path, WorkerError) for path in folder.glob("rank-*.json")), key=lambda error: error.at)
    explained = [error for error in errors if error.kind != InternalError.kind]
    if not explained and (killed := _killed(codes, oom_kills)):
        return killed
    if not errors:
        return _by_exit_codes(list(codes))
    first = (explained or errors)[0]
    return by_kind(first.kind, first.message, first.trace, first.details)


def _killed(codes: Sequence[int | None], oom_kills: int) -> JobError | None:
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL" and oom_kills:
                return OutOfMemory(
                    f"worker {rank} was killed because the container is out of memory; raise its limit, or lower "
                    "MNRL_BATCH_SIZE, MNRL_MAX_SEQ_LENGTH or MNRL_NUM_PROCESSES"
                )
            hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
            return InternalError(f"worker {rank} was killed by {name}{hint}")
    return None


def _by_exit_codes(codes: list[int | None]) -> JobError:
    for cls in JobError.__subclasses__():
        if cls.code in codes and cls is not InternalError:
            return cls(
                "a worker could not write its error report because the disk is full (see its output above); "
                "free space, or set MNRL_WORK_DIR to a larger disk"
            )
    return InternalError(f"a worker exited without an error report (exit codes {codes}); see its output above")


def worker_main(body: Callable[[], None], explain: Callable[[Exception], JobError | None]) -> NoReturn:
    """Run the body of a worker or an agent, and exit with its code; after a failure write an error file.

    `explain` converts a library's exception to a `JobError`; None means an internal error.
    """
    if os.environ.get(WAIT_FOR_TASK):
        sys.stdin.read()  # until the supervisor closes it or exits
    code = 0
    try:
        body()
    except Exception as error:
        known = error if isinstance(error, JobError) else explain(error)
        failure = known or InternalError(f"{type(error).__name__}: {error}")
        trace = failure.trace if isinstance(failure, InternalError) else ""
        try:
            message, trace = redact(str(failure)), redact(trace if known else traceback.format_exc())
            report = WorkerError(failure.kind, message, trace, time.monotonic(), redacted(failure.details))
            write_record(Path(os.environ[ERROR_FILE]), report)
        except OSError:  # the disk is full
            warn(str(failure))
        code = failure.code
    # Without teardown, which takes a second, and may abort if another worker is gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
