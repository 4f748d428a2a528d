"""The `.env` file: what stands in it counts, or is told with its line. Values are shown nowhere, they may be secret."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from mnrl_job.errors import DeniedError, SettingsError

FORM = "expected NAME=value"
# A setting, also as PowerShell, JSON or a lower-case shell would have it.
SETTING = re.compile(r"(?i)(?:\$env:)?\W*(MNRL_\w+)\W*")
BEGINS = re.compile(r"(?:export\s+)?([A-Za-z_][\w.-]*)\s*(=|:|$)", re.MULTILINE)
LINE_END = re.compile(r"\r\n|\n|\r")
SETTING_INSIDE = re.compile(r"(?m)^\s*(?:export\s+)?(MNRL_\w+)\s*=")


def read_dotenv(path: Path) -> dict[str, str | None]:
    """The variables of a `.env` file; none where there is no file.

    Raises:
        SettingsError: a line is not `NAME=value`, or the file is no text in UTF-8; every such line is named.
        DeniedError: it may not be read.
    """
    try:
        if path.is_dir() and not (path / "pyvenv.cfg").exists():  # a virtual environment is often called so
            raise SettingsError(f"{path} is a folder, as Docker creates when the file to mount is missing; remove it")
        data = path.read_bytes() if path.is_file() or path.is_fifo() else b""
    except OSError as error:
        raise DeniedError(f"{path} cannot be read: {error.strerror}; make it readable for this user") from error
    text = _decoded(path, data)
    problems = [problem for binding in parse_stream(io.StringIO(text)) for problem in _problems(path, binding)]
    if problems:
        raise SettingsError("\n".join(problems))
    return dotenv_values(stream=io.StringIO(text))


def _decoded(path: Path, data: bytes) -> str:
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
        yield f"{where}: {_misread(text)}"
    elif binding.key and (meant := SETTING.fullmatch(binding.key)) and meant[1].upper() != binding.key:
        yield f"{where}: {binding.key} is not a valid name; expected {meant[1].upper()}=value"
    elif inside := SETTING_INSIDE.search(text.partition("\n")[2]):
        yield f"{where}: the quoted value of {binding.key} runs on past {inside[1]}; close the quotes on the same line"


def _misread(text: str) -> str:
    begins = BEGINS.match(text)
    if begins and begins[2] == "=":
        return f"{begins[1]}: unclosed quotes, or text after them; {FORM} or NAME='value'"
    return f"{begins[1] + begins[2]} is not valid; {FORM}" if begins else f"this line is not valid; {FORM}"
