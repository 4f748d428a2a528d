"""How the settings are shown: as a table, as `env.example`, as JSON schema, as the table of the docs."""

import json
from collections.abc import Mapping

from mnrl_job.runtime.secrets import redact
from mnrl_job.settings import REQUIRED, Settings, accepts, as_typed, env_name


def default_text(field: str) -> str:
    """The default as one would type it; empty for none."""
    return as_typed(Settings.model_fields[field].default)


def as_table(settings: Settings, origins: Mapping[str, str]) -> str:
    """Name, value now, where it came from, meaning: one line a setting."""
    rows = [
        (
            env_name(field),
            redact(as_typed(getattr(settings, field))) or "-",
            origins.get(field, "default"),
            info.description or "",
        )
        for field, info in Settings.model_fields.items()
    ]
    header = ("SETTING", "VALUE", "FROM", "MEANING")
    widths = [min(44, max(len(row[column]) for row in [header, *rows])) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in [header, *rows]
    )


def as_env() -> str:
    """The text of `env.example`: every setting with its meaning, commented out at its default."""
    lines = ["# Settings of mnrl-job. Copy to .env and uncomment what you change.", ""]
    for field, info in Settings.model_fields.items():
        required = " REQUIRED." if field in REQUIRED["train"] else ""
        lines += [f"# {info.description}.{required}", f"# Takes {accepts(field)}."]
        lines += [f"# {env_name(field)}={default_text(field)}", ""]
    return "\n".join(lines).rstrip()


def as_json_schema() -> str:
    """JSON schema over the environment names."""
    schema = Settings.model_json_schema()
    schema["properties"] = {env_name(field): prop for field, prop in schema["properties"].items()}
    schema["required"] = [env_name(field) for field in REQUIRED["train"]]
    return json.dumps(schema, indent=2, ensure_ascii=False)


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
