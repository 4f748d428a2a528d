"""Results on stdout: tables for people, in color on a terminal, or JSON lines where logs are JSON."""

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mnrl_job.system import logs
from mnrl_job.system.secrets import redact

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

COLUMNS = 80
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def show(renderable: "RenderableType", message: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Print a result to stdout; where logs are JSON, its message and fields as a JSON line."""
    click.echo(logs.json_line(message, level, fields) if logs.are_json() else render(renderable))


def text(content: str, style: str = "", wrap: bool = True) -> "Text":
    """Text without secrets, and without control characters, which a terminal would interpret."""
    from rich.text import Text

    plain = CONTROL.sub(chr(0xFFFD), redact(content))
    return Text(plain, style, no_wrap=not wrap, overflow="fold" if wrap else "ignore")


def new_table(*headers: str, texts: Sequence[int] = (0,)) -> "Table":
    """The one style of tables: no lines, and the columns aligned right, except `texts`."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number in texts else "right")
    return table


def new_grid(*widths: int | None) -> "Table":
    """A table without headers, with columns of these widths; None for what the text needs."""
    from rich.table import Column, Table

    return Table.grid(*(Column(width=width) for width in widths), padding=(0, 2, 0, 0))


def render(renderable: "RenderableType") -> str:
    """As lines for stdout: as wide as the terminal, else 80 columns."""
    from rich.console import Console

    styled = logs.is_styled(sys.stdout)
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0  # 0 where it is not known
    console = Console(
        width=width or COLUMNS, force_terminal=styled, color_system="auto" if styled else None, markup=False
    )
    with console.capture() as capture:
        console.print(renderable, crop=False, highlight=False, emoji=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))
