"""Settings as flags of a command."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import click

from mnrl_job import __version__
from mnrl_job.config import documentation
from mnrl_job.config.dotenv_file import read_dotenv
from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import PREFIX, Settings, accepts, flag_name
from mnrl_job.system import logs


def with_settings(command: Callable[..., Any], fields: Iterable[str] = Settings.model_fields) -> Callable[..., Any]:
    """Add a flag for each of these settings to a command, which receives all settings and the origin of each."""

    @functools.wraps(command)
    def call(**flags: Any) -> Any:
        own_flags = {name: flags.pop(name) for name in list(flags) if name not in Settings.model_fields}
        name = click.get_current_context().command.name or ""
        dotenv = read_dotenv(Path(".env"))
        settings, origins = read_settings(name, flags, os.environ, dotenv)
        export_other_variables(dotenv, os.environ)
        logs.set_up(settings.log_format)
        if name != "settings":
            logs.log(f"mnrl-job {__version__}: {name}")  # before imports that take seconds
        return command(settings, origins, **own_flags)

    wrapped: Callable[..., Any] = call
    for field in reversed(list(fields)):
        default = documentation.default_text(field)
        description = Settings.model_fields[field].description
        text = f"{description}. Takes {accepts(field)}." + (f" Default: {default}." if default else "")
        wrapped = click.option(flag_name(field), field, metavar="VALUE", help=text)(wrapped)
    return wrapped


def export_other_variables(dotenv: Mapping[str, str | None], environ: MutableMapping[str, str]) -> None:
    """Export variables of `.env` that are not settings (HF_TOKEN, …), unless the environment has them."""
    for name, value in dotenv.items():
        if value is not None and not name.startswith(PREFIX):
            environ.setdefault(name, value)
