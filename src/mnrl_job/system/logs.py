"""Logs for people on a terminal, JSON lines for machines, both on stderr."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

from tqdm import tqdm

from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redact, redacted

SECONDS_BETWEEN_LINES = 30.0
LOG = logging.getLogger("mnrl_job")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return dumps(redacted(line), ensure_ascii=False, default=lambda one: redact(str(one)))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {mark}{record.getMessage()}"
        return redact(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


class Unbroken:
    """A stream that goes on when nobody reads it any more, as after `| head`: the exit code still tells the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.flush()


def log_format(wanted: Literal["auto", "text", "json"]) -> Literal["text", "json"]:
    """`auto` means text where stderr is a terminal."""
    if wanted == "auto":
        return "text" if sys.stderr.isatty() else "json"
    return wanted


def set_up(wanted: Literal["auto", "text", "json"], quiet: bool = False) -> None:
    """Send our log, and other libraries' errors, to stderr. A `quiet` process (a later rank) keeps to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format(wanted) == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    logging.captureWarnings(True)
    _take_over()
    LOG.setLevel(logging.WARNING if quiet else logging.INFO)


def _take_over() -> None:
    """Libraries that write to stderr by themselves, tables and all, write to our log instead, and errors only."""
    for one in list(logging.root.manager.loggerDict.values()):
        if isinstance(one, logging.Logger) and any(type(each) is logging.StreamHandler for each in one.handlers):
            one.handlers = [each for each in one.handlers if type(each) is not logging.StreamHandler]
            one.setLevel(logging.ERROR)
            one.propagate = True


def log(message: str, **fields: Any) -> None:
    """Say something; `fields` are added to the JSON line."""
    LOG.info(message, extra={"fields": fields})


def warn(message: str, **fields: Any) -> None:
    """Say something the user should look at."""
    LOG.warning(message, extra={"fields": fields})


def shows_progress() -> bool:
    """Whether bars may be drawn: somebody is watching, and nobody parses."""
    handlers = logging.getLogger().handlers
    return sys.stderr.isatty() and bool(handlers) and isinstance(handlers[0].formatter, _Text)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` bytes are done: as a bar where one may be drawn, else as a line now and then.

    Yields:
        A function to call with the number of bytes just done, from any thread.
    """
    began = said = time.monotonic()
    done, guard = 0, threading.Lock()
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=not shows_progress(), leave=False) as bar:

        def advance(count: int) -> None:
            nonlocal done, said
            with guard:
                done += count
                bar.update(count)
                if bar.disable and time.monotonic() - said > SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    log(f"{what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", bytes=done, total=total)

        yield advance
    seconds = time.monotonic() - began
    log(f"{what} took {seconds:.1f} s ({total / 1e6:.1f} MB)", bytes=total, seconds=round(seconds, 3))
