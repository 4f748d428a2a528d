"""How a worker ended, as it wrote it down itself, and which of several failures is the cause of the others."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mnrl_job.errors import InternalError, JobError, OutOfMemory, by_kind
from mnrl_job.system.logs import warn
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.system.secrets import redact, redacted

OUTCOME = "MNRL_JOB_OUTCOME"
WAIT = "MNRL_JOB_WAIT"


@dataclass(frozen=True, slots=True)
class WorkerError:
    """Why a worker failed, written by that worker. `at`, of a clock nobody can set, orders cause before consequence."""

    kind: str
    message: str
    trace: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)


def root_cause(folder: Path, codes: Sequence[int | None], out_of_memory: int = 0) -> JobError:
    """The first failure that explains itself; else the worker that was killed; else the first fault of ours.

    When one worker is gone, its siblings fail too: their collectives break, or their runtime aborts them.

    Args:
        folder: where the workers left their outcomes, as `rank-N.json`.
        codes: of all of them, by rank; negative for a signal.
        out_of_memory: how many processes the kernel has killed for want of memory meanwhile.
    """
    outcomes = sorted((read_record(path, WorkerError) for path in folder.glob("rank-*.json")), key=lambda one: one.at)
    explained = [one for one in outcomes if one.kind != InternalError.kind]
    if not explained and (killed := _killed(codes, out_of_memory)):
        return killed
    if not outcomes:
        return _by_exit_codes(list(codes))
    first = (explained or outcomes)[0]
    return by_kind(first.kind, first.message, first.trace, first.details)


def _killed(codes: Sequence[int | None], out_of_memory: int) -> JobError | None:
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL" and out_of_memory:
                return OutOfMemory(
                    f"worker {rank} was killed since the container's memory is used up; give it more, or lower "
                    "MNRL_BATCH_SIZE, MNRL_MAX_SEQ_LENGTH or MNRL_NUM_PROCESSES"
                )
            hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
            return InternalError(f"worker {rank} was killed by {name}{hint}")
    return None


def _by_exit_codes(codes: list[int | None]) -> JobError:
    for cls in JobError.__subclasses__():
        if cls.code in codes and cls is not InternalError:
            return cls(
                "a worker had no room to write down why it ended (its output above tells): the disk is full; "
                "free space, or set MNRL_WORK_DIR to a larger disk"
            )
    return InternalError(f"a worker ended without a word (exit codes {codes}); its output above may say more")


def worker_main(body: Callable[[], None], explain: Callable[[Exception], JobError | None]) -> NoReturn:
    """Run the body of a worker or an agent, and end the process with its exit code; on failure leave an error file.

    Args:
        body: the work.
        explain: turns a library's exception into one of ours, or None for a fault of the program.
    """
    if os.environ.get(WAIT):
        sys.stdin.read()  # until the supervisor closes it, or is gone
    code = 0
    try:
        body()
    except Exception as error:
        known = error if isinstance(error, JobError) else explain(error)
        failure = known or InternalError(f"{type(error).__name__}: {error}")
        trace = failure.trace if isinstance(failure, InternalError) else ""
        try:
            _write_outcome(os.environ, failure, trace if known else traceback.format_exc())
        except OSError:  # no room even for this
            warn(str(failure))
        code = failure.code
    # Not by tearing down, which takes a second; and with a sibling gone, the process group's runtime may abort it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _write_outcome(environ: Mapping[str, str], failure: JobError, trace: str) -> None:
    path = Path(environ[OUTCOME])
    write_record(
        path,
        WorkerError(failure.kind, redact(str(failure)), redact(trace), time.monotonic(), redacted(failure.details)),
    )
