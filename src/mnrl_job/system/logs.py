"""Logging to stderr: text on a terminal, JSON lines otherwise."""

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
        return dumps(redacted(line), ensure_ascii=False, default=lambda value: redact(str(value)))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {level}{record.getMessage()}"
        return redact(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


class PipeSafeStream:
    """A stream that ignores a closed pipe, as with `| head`, so that the exit code is still that of the run."""

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


def log_format(configured: Literal["auto", "text", "json"]) -> Literal["text", "json"]:
    """Resolve `auto`: text if stderr is a terminal."""
    if configured == "auto":
        return "text" if sys.stderr.isatty() else "json"
    return configured


def set_up(format_setting: Literal["auto", "text", "json"], quiet: bool = False) -> None:
    """Log to stderr, with errors of libraries. A `quiet` process (a rank other than 0) logs warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format(format_setting) == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    logging.captureWarnings(True)
    _redirect_library_handlers()
    LOG.setLevel(logging.WARNING if quiet else logging.INFO)


def _redirect_library_handlers() -> None:
    """Make libraries with stream handlers of their own propagate to our handler instead, errors only."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and any(type(item) is logging.StreamHandler for item in logger.handlers):
            logger.handlers = [item for item in logger.handlers if type(item) is not logging.StreamHandler]
            logger.setLevel(logging.ERROR)
            logger.propagate = True


def log(message: str, **fields: Any) -> None:
    """Log a message; `fields` are added to the JSON line."""
    LOG.info(message, extra={"fields": fields})


def warn(message: str, **fields: Any) -> None:
    LOG.warning(message, extra={"fields": fields})


def shows_progress() -> bool:
    """Whether to draw progress bars: stderr is a terminal and logs are text."""
    handlers = logging.getLogger().handlers
    return sys.stderr.isatty() and bool(handlers) and isinstance(handlers[0].formatter, _Text)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report progress towards `total` bytes: as a bar on a terminal, else as periodic log lines.

    Yields:
        A function to call with the number of bytes just transferred; thread-safe.
    """
    started = last_line = time.monotonic()
    done, lock = 0, threading.Lock()
    with tqdm(
        total=total, desc=description, unit="B", unit_scale=True, disable=not shows_progress(), leave=False
    ) as bar:

        def advance(count: int) -> None:
            nonlocal done, last_line
            with lock:
                done += count
                bar.update(count)
                if bar.disable and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    log(f"{description}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", bytes=done, total=total)

        yield advance
    seconds = time.monotonic() - started
    log(f"{description} took {seconds:.1f} s ({total / 1e6:.1f} MB)", bytes=total, seconds=round(seconds, 3))
