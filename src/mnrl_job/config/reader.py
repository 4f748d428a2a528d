"""Reads settings from flags, the environment, `.env` and defaults, in this order; reports all problems at once."""

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from mnrl_job.config.credentials import invalid_credentials
from mnrl_job.config.evaluation_settings import GENERAL_SEARCH
from mnrl_job.config.service_links import is_service_link
from mnrl_job.config.settings import (
    GIT_SHA,
    IMAGE,
    PREFIX,
    REMOVED,
    RENAMED,
    REQUIRED,
    Settings,
    accepts,
    env_name,
    flag_name,
    is_secret_setting,
)
from mnrl_job.errors import SettingsError

RESERVED_NAME = (
    f"MNRL_EVAL_DATA: {GENERAL_SEARCH!r} is the name of the bundled set of general search; give the eval set another "
    "(NAME=URI), or set MNRL_GENERAL_GUARD=off"
)
QUOTED = re.compile(r"""(["'])(?:(?!\1).)*\1|“[^”]*”|‘[^’]*’""", re.DOTALL)


def read_settings(
    command: str, flags: Mapping[str, str | None], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[Settings, dict[str, str]]:
    """Merge flags, environment and `.env` into validated settings.

    Returns:
        The settings, and the origin of each that is not a default.

    Raises:
        SettingsError: all problems, one per line.
    """
    values, origins = _collect(flags, environ, dotenv)
    relevant = {name: value for name, value in environ.items() if not is_service_link(name, environ)}
    problems = _unknown_names(relevant, "") + _unknown_names(dotenv, " in .env")
    if command != "settings":
        problems += _credential_problems(environ, dotenv)
    invalid = {
        field: _quotes_problem(field, values[field], origins[field])
        for field in values
        if _is_quoted(field, values[field])
    }
    settings = None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        invalid = _explain(error, values, origins) | invalid
    problems += invalid.values()
    if settings and (settings.loss == "guided") != bool(settings.guide_model):
        problems += [_guide_problem(settings)]
    if settings and command != "export" and settings.general_guard == "on":
        problems += [RESERVED_NAME for source in settings.eval_data if source.name == GENERAL_SEARCH]
    problems += [
        f"{env_name(field)} is required: {accepts(field)}" for field in REQUIRED[command] if _is_missing(field, values)
    ]
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings, origins


def _collect(
    flags: Mapping[str, str | None], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for field in Settings.model_fields:
        for origin, value in (
            (flag_name(field), flags.get(field)),
            (env_name(field), environ.get(env_name(field))),
            (f"{env_name(field)} in .env", dotenv.get(env_name(field))),
        ):
            if value is not None and (value != "" or origin == flag_name(field)):
                values[field], origins[field] = value, origin
                break
    return values, origins


def _credential_problems(environ: Mapping[str, str], dotenv: Mapping[str, str | None]) -> list[str]:
    effective_dotenv = {name: value for name, value in dotenv.items() if value is not None and name not in environ}
    return [
        *(f"{name} {problem}" for name, problem in invalid_credentials(environ)),
        *(f"{name} in .env {problem}" for name, problem in invalid_credentials(effective_dotenv)),
    ]


def _is_quoted(field: str, value: str) -> bool:
    """Whether a value, or an item of a list, is in literal quotes."""
    is_list = isinstance(Settings.model_fields[field].default, tuple)
    return any(QUOTED.fullmatch(item.strip()) for item in (value, *(value.split(",") if is_list else ())))


def _quotes_problem(field: str, value: str, origin: str) -> str:
    name, _, file = origin.partition(" in ")
    where = f" in {file}" if file else ""
    shown = "" if is_secret_setting(field) else f"={value}"
    return (
        f"{name}{shown}{where} has literal quotes, which `docker run --env-file` and Kubernetes keep; "
        f"expected {accepts(field)}, without quotes"
    )


def _is_missing(field: str, values: Mapping[str, str]) -> bool:
    """Whether a setting is unset, or only whitespace and commas. An invalid one is not missing."""
    value = {field: values[field]} if field in values else {}
    try:
        return not getattr(Settings.model_validate(value), field)
    except ValidationError:
        return False


def _unknown_names(names: Mapping[str, str | None], where: str) -> list[str]:
    known = [env_name(field) for field in Settings.model_fields]
    problems = []
    for name in sorted(names):
        has_our_prefix = name.startswith(PREFIX) or name.upper() in known
        if has_our_prefix and name not in (*known, IMAGE, GIT_SHA):
            problems.append(f"{name}{where} {_hint(name.upper(), known)}")
    return problems


def _hint(name: str, known: Sequence[str]) -> str:
    if reason := REMOVED.get(name.removeprefix(PREFIX).lower()):
        return f"is no longer a setting: {reason}; remove it"
    match = _closest_setting(name, known)
    return f"is not a setting; did you mean {match}?" if match else "is not a setting; see `mnrl-job settings`"


def _closest_setting(name: str, known: Sequence[str]) -> str | None:
    renamed = RENAMED.get(name.removeprefix(PREFIX).lower())
    return env_name(renamed) if renamed else next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _explain(error: ValidationError, values: Mapping[str, str], origins: Mapping[str, str]) -> dict[str, str]:
    """The problem of each invalid setting, by field."""
    problems = {}
    for detail in error.errors():
        field = str(detail["loc"][0])
        reason = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
        name, _, file = origins.get(field, env_name(field)).partition(" in ")
        where = f" in {file}" if file else ""
        value = values.get(field, Settings.model_fields[field].default)
        shown = "" if is_secret_setting(field) else f"={value!r}"
        problems[field] = f"{name}{shown}{where} is invalid{reason}; expected {accepts(field)}"
    return problems


def _guide_problem(settings: Settings) -> str:
    if settings.guide_model:
        return (
            f"MNRL_GUIDE_MODEL={settings.guide_model} has no effect with MNRL_LOSS={settings.loss}; "
            "set MNRL_LOSS=guided or unset MNRL_GUIDE_MODEL"
        )
    return f"MNRL_LOSS=guided requires MNRL_GUIDE_MODEL: {accepts('guide_model')}"
