"""The settings as a table, as `env.example`, as JSON schema, and as the table of the docs."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from mnrl_job.config.settings import REQUIRED, Settings, accepts, as_text, env_name
from mnrl_job.system.console import render, text
from mnrl_job.system.json_text import dumps

BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")


def default_text(field: str) -> str:
    """The default as text; empty for None."""
    return as_text(Settings.model_fields[field].default)


def as_table(settings: Settings, origins: Mapping[str, str]) -> str:
    """Name, value and origin of each setting, with its meaning below."""
    from rich.console import Group
    from rich.padding import Padding

    width = max(len(env_name(field)) for field in Settings.model_fields)
    blocks: list[Any] = []
    for field, info in Settings.model_fields.items():
        line = text(f"{env_name(field):<{width}}  {as_text(getattr(settings, field)) or '-'}", wrap=False)
        if field in origins:
            line.stylize("bold green", width + 2)
            line.append(f"  (from {origins[field]})")
        blocks += [line, Padding(text(info.description or "", "dim"), (0, 0, 0, 4))]
    return render(Group(*blocks))


def as_env() -> str:
    """The text of `env.example`: every setting with its meaning, commented out at its default."""
    lines = ["# Settings of mnrl-job. Copy to .env and uncomment what you change.", ""]
    for field, info in Settings.model_fields.items():
        required = " REQUIRED." if field in REQUIRED["train"] else ""
        lines += [f"# {info.description}.{required}", f"# Takes {accepts(field)}."]
        lines += [f"# {env_name(field)}={default_text(field)}", ""]
    return "\n".join(lines).rstrip()


def as_json_schema() -> str:
    """JSON schema of the environment variables of `train`."""
    schema = {
        "title": "Settings of mnrl-job",
        "type": "object",
        "properties": {env_name(field): _text_schema(field) for field in Settings.model_fields},
        "required": [env_name(field) for field in REQUIRED["train"]],
        "additionalProperties": False,
    }
    return dumps(schema, indent=2, ensure_ascii=False)


def _text_schema(field: str) -> dict[str, Any]:
    """Schema of a setting as text; with the accepted values of a `Literal` or a boolean, or empty for unset."""
    info = Settings.model_fields[field]
    schema: dict[str, Any] = {"type": "string", "description": f"{info.description}. Takes {accepts(field)}."}
    values = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    if values := BOOLEANS if info.annotation is bool else values:
        schema["enum"] = [*values, ""]
    if field in REQUIRED["train"]:
        schema["minLength"] = 1
    if default := default_text(field):
        schema["default"] = default
    return schema


def as_markdown() -> str:
    """The text of `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Made by `mnrl-job settings --format markdown`; do not edit. Every setting is an environment variable and a",
        "flag of the same name (`MNRL_BATCH_SIZE`, `--batch-size`). Order: flag, environment, `.env`, default.",
        "",
        "| setting | default | meaning | accepts |",
        "|---|---|---|---|",
    ]
    for field, info in Settings.model_fields.items():
        default = (
            "required" if field in REQUIRED["train"] else f"`{default_text(field)}`" if default_text(field) else "–"
        )
        accepted = accepts(field).replace("|", "\\|")
        lines.append(f"| `{env_name(field)}` | {default} | {info.description} | {accepted} |")
    return "\n".join(lines)
