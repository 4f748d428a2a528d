"""Commands, and the one place where errors become exit codes and words."""

import contextlib
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnrl_job import __version__
from mnrl_job.config import documentation
from mnrl_job.config.dotenv_file import read_dotenv
from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import PREFIX, RENAMED, Settings, accepts, flag_name
from mnrl_job.errors import GateError, InternalError, JobError, SettingsError, by_kind
from mnrl_job.system import logs
from mnrl_job.system.finding import Finding
from mnrl_job.system.json_text import dumps
from mnrl_job.system.secrets import redact, redacted

if TYPE_CHECKING:
    from mnrl_job.pipeline.finalize import RunOutcome

TERMINATION_LOG = Path("/dev/termination-log")
# Kubernetes cuts the log at 4096 bytes; a character takes 4 at most.
TERMINATION_LOG_CHARACTERS = 900
SHOWN_METRICS = ("ndcg@10", "mrr@10", "recall@10", "accuracy@1")


def with_settings(command: Callable[..., Any], fields: Iterable[str] = Settings.model_fields) -> Callable[..., Any]:
    """Give a command a flag for each of these settings; it receives all settings, checked, and where each came from."""

    @functools.wraps(command)
    def run(**flags: Any) -> Any:
        own = {name: flags.pop(name) for name in list(flags) if name not in Settings.model_fields}
        name = click.get_current_context().command.name or ""
        dotenv = read_dotenv(Path(".env"))
        settings, origins = read_settings(name, flags, os.environ, dotenv)
        export_others(dotenv, os.environ)
        logs.set_up(settings.log_format)
        return command(settings, origins, **own)

    wrapped: Callable[..., Any] = run
    for field in reversed(list(fields)):
        default = documentation.default_text(field)
        meaning = Settings.model_fields[field].description
        text = f"{meaning}. Takes {accepts(field)}." + (f" Default: {default}." if default else "")
        wrapped = click.option(flag_name(field), field, metavar="VALUE", help=text)(wrapped)
    return wrapped


def export_others(dotenv: Mapping[str, str | None], environ: MutableMapping[str, str]) -> None:
    """Names in `.env` that are not ours (HF_TOKEN, …) reach the libraries, unless the environment has them."""
    for name, value in dotenv.items():
        if value is not None and not name.startswith(PREFIX):
            environ.setdefault(name, value)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="mnrl-job")
def commands() -> None:
    """Fine-tune a retrieval model on your own pairs.

    Every flag is also an environment variable: --batch-size is MNRL_BATCH_SIZE. A .env file in the current folder is
    read too.
    """


@commands.command()
@with_settings
def train(settings: Settings, _origins: dict[str, str]) -> None:
    """Fine-tune on pairs, evaluate before and after, verify and publish."""
    from mnrl_job.pipeline.train import train as run

    conclude(run(settings))


@commands.command()
@with_settings
def evaluate(settings: Settings, _origins: dict[str, str]) -> None:
    """Score the base model on the eval sets, without training."""
    from mnrl_job.pipeline.evaluate import evaluate as run

    conclude(run(settings))


@commands.command()
@with_settings
def check(settings: Settings, _origins: dict[str, str]) -> None:
    """Check everything that a training run needs, and estimate how long it takes."""
    from mnrl_job.pipeline.check import check as run
    from mnrl_job.report.audit_page import page

    findings, audit = run(settings, lambda finding: click.echo(_row(finding)))
    if audit:
        click.echo(redact(f"\n{page(audit)}\n"))
    failed = [finding for finding in findings if finding.status == "failed"]
    warnings = sum(finding.status == "warning" for finding in findings)
    if failed:
        raise by_kind(failed[0].kind, failed[0].message)
    logs.log(f"ready to train: {len(findings) - warnings} checks passed, {warnings} warning(s)")


@commands.command()
@click.argument("uri")
@functools.partial(with_settings, fields=("work_dir", "s3_addressing_style", "num_processes", "log_format"))
def verify(settings: Settings, _origins: dict[str, str], uri: str) -> None:
    """Re-check a published run: marker, manifest, every hash, and that the model gives the same embeddings."""
    from mnrl_job.pipeline.verify import verify_run

    found = verify_run(uri, settings)
    model = f"the model gives the same embeddings (max difference {found.max_difference:.2g})" if found else ""
    logs.log(f"{uri} verified: all hashes match; {model or 'the run has no model'}")


@commands.command()
@click.option("--format", "shape", type=click.Choice(["table", "env", "json-schema", "markdown"]), default="table")
@with_settings
def settings(settings: Settings, origins: dict[str, str], shape: str) -> None:
    """Print all settings: a table with current values, env.example, a JSON schema or Markdown."""
    pages = {
        "env": documentation.as_env,
        "json-schema": documentation.as_json_schema,
        "markdown": documentation.as_markdown,
    }
    click.echo(pages[shape]() if shape in pages else documentation.as_table(settings, origins))


def _row(finding: Finding) -> str:
    """A finding as one line of the table, and its remedy as a second."""
    color = {"passed": "green", "warning": "yellow", "failed": "red"}[finding.status]
    line = f"{click.style(f'{finding.status:<8}', fg=color)} {finding.check:<22} {finding.detail}"
    return redact(line + (f"\n{'':<32}-> {finding.remedy}" if finding.remedy else ""))


def conclude(finished: "RunOutcome") -> None:
    """Say how it ended: the metrics as a table on stdout, then one plain sentence on stderr."""
    if finished.by_peer:
        logs.log(f"node 0 has published {finished.run}")
        return
    if finished.content is None:
        logs.log(f"{finished.run} is already published with these settings; nothing to do")
        return
    show(finished.content)
    primary = finished.content["primary_metric"]
    word = "finished" if primary and (primary["delta"] or 0) < 0 else "succeeded"
    logs.log(f"{word}: {_verdict(primary)}the run is in {finished.run}")


def show(content: Mapping[str, Any]) -> None:
    """The metrics of each eval set as a table on stdout."""
    evaluation, primary = content["evaluation"], content["primary_metric"]
    for name, one in evaluation.items():
        metric = primary["name"].rpartition(".")[2]
        click.echo("\n".join([f"\n{name}\n{_table(one, metric)}", *_shorter(one["dimensions"], metric)]))
        if content["exports"]:
            click.echo("\n".join(_exported(content["exports"], name, metric, one["after"][metric])))
    if evaluation:
        click.echo()


def _table(one: dict[str, Any], primary: str) -> str:
    header = f"  {'metric':<14}" + f"{'bm25':>8}" * bool(one["bm25"]) + f"{'before':>8}"
    lines = [header + (f"{'after':>8}{'gain':>9}   {'95 % interval':<21}won/lost/tied" if one["after"] else "")]
    for metric in dict.fromkeys((primary, *(shown for shown in SHOWN_METRICS if shown in one["before"]))):
        line = f"  {metric:<14}" + (f"{one['bm25'][metric]:>8.4f}" if one["bm25"] else "")
        line += f"{one['before'][metric]:>8.4f}"
        if one["after"]:
            low, high = one["confidence_interval"][metric]
            changes = "/".join(str(count) for count in one["wins_losses"][metric].values())
            line += f"{one['after'][metric]:>8.4f}{one['delta'][metric]:>+9.4f}   {low:+.4f} to {high:+.4f}   {changes}"
        lines.append(line)
    return "\n".join(lines)


def _shorter(dimensions: dict[str, Any], primary: str) -> list[str]:
    """The primary metric with shorter embeddings, a line for each number of dimensions."""
    lines = [f"  {primary} with embeddings cut to"] if dimensions else []
    for dimension, one in dimensions.items():
        line = f"  {dimension:<14}{one['before'][primary]:>8.4f}"
        if one["after"]:
            line += f"{one['after'][primary]:>8.4f}{one['after'][primary] - one['before'][primary]:>+9.4f}"
        lines.append(line)
    return lines


def _exported(exports: dict[str, Any], name: str, metric: str, after: float) -> list[str]:
    """The primary metric of each exported format, against the model itself, with its size and speed."""
    lines = [f"  {'exported as':<14}{metric:>16}{'change':>9}{'size':>12}   a text"]
    for kind, one in exports.items():
        value, pytorch = one["metrics"][name][metric], one["pytorch_seconds_per_text"]
        beside = f" (PyTorch {1000 * pytorch:.1f} ms)" if pytorch else ""
        lines.append(
            f"  {kind:<14}{value:>16.4f}{value - after:>+9.4f}{one['bytes'] / 1e6:>9.1f} MB   "
            f"{1000 * one['seconds_per_text']:.1f} ms{beside}"
        )
    return lines


def _verdict(primary: Mapping[str, Any] | None) -> str:
    if primary is None:
        return "not evaluated; "
    if primary["after"] is None:
        return f"{primary['name']} is {primary['before']:.4f}; "
    if primary["delta"]:
        change = "rose" if primary["delta"] > 0 else "fell"
        return f"{primary['name']} {change} from {primary['before']:.4f} to {primary['after']:.4f}; "
    nothing = ", and this eval set cannot show a gain" if primary["saturated"] else ""
    return f"{primary['name']} stayed at {primary['before']:.4f}{nothing}; "


def main() -> int:
    """Run a command and turn however it ends into an exit code, a last line and the termination log."""
    out, err = logs.Unbroken(sys.stdout), logs.Unbroken(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _run()


def _run() -> int:
    wanted = os.environ.get("MNRL_LOG_FORMAT", "").strip()
    logs.set_up("text" if wanted == "text" else "json" if wanted == "json" else "auto")
    try:
        commands.main(standalone_mode=False)
    except click.NoSuchOption as error:
        renamed = RENAMED.get(error.option_name.removeprefix("--").replace("-", "_"))
        hint = f"{error.message} Did you mean {flag_name(renamed)!r}?" if renamed else error.format_message()
        return fail(SettingsError(hint))
    except click.ClickException as error:
        return fail(SettingsError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return fail(InternalError("interrupted"))
    except JobError as error:
        return fail(error)
    except Exception as error:
        return fail(InternalError(f"{type(error).__name__}: {error}", traceback.format_exc()))
    return 0


def fail(failure: JobError) -> int:
    """Tell of a failure: a traceback for our faults, one clear message for the user's."""
    if isinstance(failure, InternalError) and failure.trace:
        click.echo(redact(failure.trace), err=True)
    if isinstance(failure, GateError) and failure.content:
        show(failure.content)
    retry = "; a retry may help" if failure.retry_helps else ""
    fields = failure.as_dict()
    logs.LOG.log(
        logging.ERROR,
        f"{failure} (exit {failure.code}, {failure.kind}{retry})",
        extra={"fields": fields | {"message": str(failure)}},
    )
    with contextlib.suppress(OSError):
        if TERMINATION_LOG.exists():
            short = fields | {"message": redact(str(failure))[:TERMINATION_LOG_CHARACTERS]}
            line = dumps(redacted(short), ensure_ascii=False) + "\n"
            # What is no Unicode, as in a file's name, becomes an escape that JSON knows.
            TERMINATION_LOG.write_text(line, encoding="utf-8", errors="backslashreplace")
    return failure.code


if __name__ == "__main__":
    sys.exit(main())
