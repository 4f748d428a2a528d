"""The `.env` file. Every invalid line is reported; values are never shown, since they may be secret."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from mnrl_job.errors import DeniedError, SettingsError

EXPECTED = "expected NAME=value"
# A setting, also in the syntax of PowerShell or JSON, or in lower case.
SETTING = re.compile(r"(?i)(?:\$env:)?\W*(MNRL_\w+)\W*")
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][\w.-]*)\s*(=|:|$)", re.MULTILINE)
LINE_END = re.compile(r"\r\n|\n|\r")
SETTING_INSIDE = re.compile(r"(?m)^\s*(?:export\s+)?(MNRL_\w+)\s*=")


def read_dotenv(path: Path) -> dict[str, str | None]:
    """The variables of a `.env` file; empty if there is no file.

    Raises:
        SettingsError: lines that are not `NAME=value`, or the file is not UTF-8.
        DeniedError: the file may not be read.
    """
    try:
        if path.is_dir() and not (path / "pyvenv.cfg").exists():  # a virtual environment is often named .env
            raise SettingsError(f"{path} is a folder, as Docker creates when the file to mount is missing; remove it")
        data = path.read_bytes() if path.is_file() or path.is_fifo() else b""
    except OSError as error:
        raise DeniedError(f"{path} cannot be read: {error.strerror}; make it readable for this user") from error
    text = _decode(path, data)
    problems = [problem for binding in parse_stream(io.StringIO(text)) for problem in _problems(path, binding)]
    if problems:
        raise SettingsError("\n".join(problems))
    return dotenv_values(stream=io.StringIO(text))


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise SettingsError(f"{path}:1: UTF-16, as PowerShell's > writes it; save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}:{line}: {data[error.start]:#04x} is not UTF-8; save the file as UTF-8") from error


def _problems(path: Path, binding: Binding) -> Iterator[str]:
    text = binding.original.string.lstrip()
    before = binding.original.string.removesuffix(text)
    where = f"{path}:{binding.original.line + len(LINE_END.findall(before))}"
    if binding.error or (binding.key and binding.value is None):
        yield f"{where}: {_explain(text)}"
    elif binding.key and (setting := SETTING.fullmatch(binding.key)) and setting[1].upper() != binding.key:
        yield f"{where}: {binding.key} is not a valid name; expected {setting[1].upper()}=value"
    elif inside := SETTING_INSIDE.search(text.partition("\n")[2]):
        yield f"{where}: the quoted value of {binding.key} runs on past {inside[1]}; close the quotes on the same line"


def _explain(text: str) -> str:
    assignment = ASSIGNMENT.match(text)
    if assignment and assignment[2] == "=":
        return f"{assignment[1]}: unclosed quotes, or text after them; {EXPECTED} or NAME='value'"
    return (
        f"{assignment[1] + assignment[2]} is not valid; {EXPECTED}"
        if assignment
        else f"this line is not valid; {EXPECTED}"
    )
