"""Print docs/cli.md: every command with its arguments and options, as click knows them."""

import click

from mnrl_job.cli import commands
from mnrl_job.config.settings import Settings

HEAD = """\
# Command line

Made by `make docs`; do not edit.

`mnrl-job COMMAND` and, in a checkout, `python entrypoint.py COMMAND` are the same program; the image takes COMMAND
as its first argument. `--help` explains each option. Results go to stdout, the log to stderr. The last line
of the log says how it ended, as does the [exit code](exit-codes.md).

On a terminal both are text, in color unless `NO_COLOR` is set or `TERM` is `dumb`. Otherwise, and with
`MNRL_LOG_FORMAT=json`, every line of both is JSON, with the result as fields: `kubectl logs POD | jq` works. Text
for a pipe (`MNRL_LOG_FORMAT=text`) has 80 columns. `settings` and `--help` always print what was asked for.
"""
MORE = {
    "train": "[What it writes](metrics.md), [how to stop and resume it](interruptions.md).",
    "prepare": "[Large data](large-data.md).",
    "check": "[What it checks](storage.md#check).",
    "evaluate": "It writes the same files as `train`, but for the model.",
    "export": "Each export is compared and scored. [Formats, and what is checked](exports.md).",
    "verify": "[What it compares](storage.md#verify).",
    "settings": "As a table with where each value came from, as `env.example`, as a JSON schema or in Markdown.",
    "compare": "[What it compares](report.md#comparing-runs).",
}


def main() -> None:
    named = commands.commands
    click.echo("\n".join([HEAD, "| command | what it does |", "|---|---|"]))
    for name, command in named.items():
        click.echo(f"| [`{name}`](#mnrl-job-{name}) | {first_line(command)} |")
    for name, command in named.items():
        click.echo("\n".join(section(name, command)))
    click.echo("\n## Settings as flags\n\nWhat each means and accepts: [settings](settings.md).\n")
    click.echo(", ".join(f"`{option.opts[0]}`" for option in options(named["train"])))


def section(name: str, command: click.Command) -> list[str]:
    """The command's usage, purpose and options."""
    context = click.Context(command)
    arguments = [param.make_metavar(context) for param in command.params if isinstance(param, click.Argument)]
    usage = " ".join(["mnrl-job", name, *arguments, "[OPTIONS]"])
    purpose = f"{first_line(command)} {MORE.get(name, '')}".rstrip()
    settings = [option.opts[0] for option in options(command) if option.name in Settings.model_fields]
    own = [option for option in options(command) if option.name not in Settings.model_fields]
    lines = ["", f"## `mnrl-job {name}`", "", f"`{usage}`", "", purpose, ""]
    lines += [
        f"- `{option.opts[0]}`" if option.is_flag else f"- `{option.opts[0]} {option.make_metavar(context)}`"
        for option in own
    ]
    if len(settings) == len(Settings.model_fields):
        return [*lines, "- every [setting as a flag](#settings-as-flags)"]
    return [*lines, f"- of the [settings](settings.md): {', '.join(f'`{flag}`' for flag in settings)}"]


def options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def first_line(command: click.Command) -> str:
    return (command.help or "").splitlines()[0]


if __name__ == "__main__":
    main()
