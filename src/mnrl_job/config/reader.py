"""Where settings come from: the flag, else the environment, else `.env`, else the default; all problems at once."""

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from mnrl_job.config.credentials import faulty_credentials
from mnrl_job.config.service_links import is_service_link
from mnrl_job.config.settings import (
    GIT_SHA,
    IMAGE,
    PREFIX,
    RENAMED,
    REQUIRED,
    Settings,
    accepts,
    env_name,
    flag_name,
    is_secret_setting,
)
from mnrl_job.errors import SettingsError

QUOTED = re.compile(r"""(["'])(?:(?!\1).)*\1|“[^”]*”|‘[^’]*’""", re.DOTALL)


def read_settings(
    command: str, flags: Mapping[str, str | None], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[Settings, dict[str, str]]:
    """Merge flags, environment and `.env` into checked settings.

    Returns:
        The settings, and for each setting given by somebody where it came from.

    Raises:
        SettingsError: naming every problem at once, one a line.
    """
    values, origins = _given(flags, environ, dotenv)
    own = {name: value for name, value in environ.items() if not is_service_link(name, environ)}
    problems = _unknown_names(own, "") + _unknown_names(dotenv, " in .env")
    if command != "settings":
        problems += _credentials(environ, dotenv)
    faults = {
        field: _in_quotes(field, values[field], origins[field]) for field in values if _is_quoted(field, values[field])
    }
    settings = None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults = _explain(error, values, origins) | faults
    problems += faults.values()
    if settings and (settings.loss == "guided") != bool(settings.guide_model):
        problems += [_lone_guide(settings)]
    problems += [
        f"{env_name(field)} is required: {accepts(field)}"
        for field in REQUIRED[command]
        if _says_nothing(field, values)
    ]
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings, origins


def _given(
    flags: Mapping[str, str | None], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """The value of each setting that somebody gave, and where."""
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


def _credentials(environ: Mapping[str, str], dotenv: Mapping[str, str | None]) -> list[str]:
    """What is wrong with credentials, as they will be: the environment's, else those of `.env`."""
    others = {name: value for name, value in dotenv.items() if value is not None and name not in environ}
    told = {name: f"{name} {fault}" for name, fault in faulty_credentials(environ)}
    return [*told.values(), *(f"{name} in .env {fault}" for name, fault in faulty_credentials(others))]


def _is_quoted(field: str, value: str) -> bool:
    """Whether a text, or one of a list of texts, stands in quotes that nothing has taken away."""
    is_list = isinstance(Settings.model_fields[field].default, tuple)
    return any(QUOTED.fullmatch(item.strip()) for item in (value, *(value.split(",") if is_list else ())))


def _in_quotes(field: str, value: str, origin: str) -> str:
    name, _, file = origin.partition(" in ")
    place = f" in {file}" if file else ""
    shown = "" if is_secret_setting(field) else f"={value}"
    return (
        f"{name}{shown}{place} has literal quotes, which `docker run --env-file` and Kubernetes keep; "
        f"expected {accepts(field)}, without quotes"
    )


def _says_nothing(field: str, values: Mapping[str, str]) -> bool:
    """Whether a setting is not given, or holds nothing but blanks and commas. A wrong one is told of elsewhere."""
    given = {field: values[field]} if field in values else {}
    try:
        return not getattr(Settings.model_validate(given), field)
    except ValidationError:
        return False


def _unknown_names(names: Mapping[str, str | None], where: str) -> list[str]:
    known = [env_name(field) for field in Settings.model_fields]
    problems = []
    for name in sorted(names):
        is_ours = name.startswith(PREFIX) or name.upper() in known
        if is_ours and name not in (*known, IMAGE, GIT_SHA):
            meant = _closest_setting(name.upper(), known)
            hint = f"did you mean {meant}?" if meant else "see `mnrl-job settings`"
            problems.append(f"{name}{where} is not a setting; {hint}")
    return problems


def _closest_setting(name: str, known: Sequence[str]) -> str | None:
    renamed = RENAMED.get(name.removeprefix(PREFIX).lower())
    return env_name(renamed) if renamed else next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _explain(error: ValidationError, values: Mapping[str, str], origins: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with each setting, by its field."""
    problems = {}
    for detail in error.errors():
        field = str(detail["loc"][0])
        reason = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
        name, _, file = origins.get(field, env_name(field)).partition(" in ")
        place = f" in {file}" if file else ""
        value = values.get(field, Settings.model_fields[field].default)
        shown = "" if is_secret_setting(field) else f"={value!r}"
        problems[field] = f"{name}{shown}{place} is invalid{reason}; expected {accepts(field)}"
    return problems


def _lone_guide(settings: Settings) -> str:
    if settings.guide_model:
        return (
            f"MNRL_GUIDE_MODEL={settings.guide_model} has no effect with MNRL_LOSS={settings.loss}; "
            "set MNRL_LOSS=guided or unset MNRL_GUIDE_MODEL"
        )
    return f"MNRL_LOSS=guided requires MNRL_GUIDE_MODEL: {accepts('guide_model')}"
