"""Logging to stderr: text on a terminal, JSON lines otherwise."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

import click
from tqdm import tqdm

from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redact, redacted

SECONDS_BETWEEN_LINES = 30.0
# Faster transfers are not worth a line, nor a bar.
MIN_SECONDS = 0.1
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
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        if is_styled(sys.stderr):
            level = level and click.style(level, fg="yellow" if record.levelno == logging.WARNING else "red", bold=True)
            clock = click.style(clock, dim=True)
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{clock}  {level}{redact(record.getMessage() + trace)}"


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


def is_styled(stream: TextIO) -> bool:
    """Whether escape codes may be written: to a terminal that has them, unless NO_COLOR is set."""
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


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


def are_json() -> bool:
    """Whether logs are JSON lines; then results on stdout are, too."""
    return any(isinstance(handler.formatter, _JsonLines) for handler in logging.getLogger().handlers)


def json_line(message: str, level: int, fields: Mapping[str, Any]) -> str:
    """A line as in the log."""
    record = LOG.makeRecord(LOG.name, level, "", 0, "%s", (message,), None, extra={"fields": fields})
    return _JsonLines().format(record)


def shows_progress() -> bool:
    """Whether to draw progress bars: stderr is a terminal and logs are text."""
    handlers = logging.getLogger().handlers
    return _is_terminal(sys.stderr) and bool(handlers) and isinstance(handlers[0].formatter, _Text)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report progress towards `total` bytes: as a bar on a terminal, else as periodic log lines.

    Yields:
        A function to call with the number of bytes just transferred; thread-safe.
    """
    started = last_line = time.monotonic()
    done, lock = 0, threading.Lock()
    hidden = not shows_progress()
    with tqdm(
        total=total, desc=description, unit="B", unit_scale=True, disable=hidden, leave=False, delay=MIN_SECONDS
    ) as bar:

        def advance(count: int) -> None:
            nonlocal done, last_line
            with lock:
                done += count
                bar.update(count)
                if bar.disable and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    log(f"{description}: {done / total:.0%} done", bytes=done, total=total)

        yield advance
    seconds = time.monotonic() - started
    if seconds >= MIN_SECONDS:
        log(f"{description} took {seconds:.1f} s", bytes=total, seconds=round(seconds, 3))
