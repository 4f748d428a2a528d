"""Commands, and the place where errors become exit codes and messages."""

import contextlib
import functools
import io
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from mnrl_job import __version__
from mnrl_job.config import documentation
from mnrl_job.config.flags import with_settings
from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.config.settings import REMOVED, RENAMED, Settings, flag_name
from mnrl_job.errors import GateError, InternalError, JobError, SettingsError, by_kind
from mnrl_job.system import logs
from mnrl_job.system.json_text import dumps
from mnrl_job.system.quantities import plural
from mnrl_job.system.secrets import redact, redacted

if TYPE_CHECKING:
    from mnrl_job.pipeline.finalize import RunOutcome

TERMINATION_LOG = Path("/dev/termination-log")
# Kubernetes truncates the log at 4096 bytes; a character takes 4 at most.
TERMINATION_LOG_CHARACTERS = 900
EXPORT_SETTINGS = (
    "eval_data",
    "max_bad_row_ratio",
    "metric_cutoffs",
    "primary_metric",
    "work_dir",
    "hang_timeout",
    "grace_period",
    "s3_addressing_style",
    "log_format",
)


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
    """Fine-tune, score before and after, verify, publish."""
    from mnrl_job.pipeline.train import train

    conclude(train(settings))


@commands.command()
@with_settings
def prepare(settings: Settings, _origins: dict[str, str]) -> None:
    """Prepare the training data once, on CPUs, for all runs that use it."""
    from mnrl_job.pipeline.prepare import prepare

    data_set = prepare(settings)
    if data_set.pairs is None:
        logs.log(f"{data_set.uri} is already prepared from these inputs with these settings; nothing to do")
    else:
        logs.log(
            f"succeeded: {data_set.pairs} pairs in {data_set.steps} batches are in {data_set.uri}; "
            "train and check with the same inputs and settings find them"
        )


@commands.command()
@with_settings
def evaluate(settings: Settings, _origins: dict[str, str]) -> None:
    """Score the base model, without training."""
    from mnrl_job.pipeline.evaluate import evaluate

    conclude(evaluate(settings))


@commands.command()
@click.option("--full", is_flag=True, help="Read all rows, also of more than 2 million.")
@with_settings
def check(settings: Settings, _origins: dict[str, str], full: bool) -> None:
    """Check all that a run needs, and estimate its time."""
    from mnrl_job.pipeline.check import check
    from mnrl_job.report.audit import show_audit, show_finding

    findings, audit = check(settings, show_finding, full)
    if audit:
        show_audit(audit)
    failed = [finding for finding in findings if finding.status == "failed"]
    warnings = sum(finding.status == "warning" for finding in findings)
    if failed:
        raise by_kind(failed[0].kind, failed[0].message)
    logs.log(f"ready to train: {plural(len(findings) - warnings, 'check')} passed, {plural(warnings, 'warning')}")


@commands.command()
@click.argument("uri")
@functools.partial(with_settings, fields=("work_dir", "s3_addressing_style", "num_processes", "log_format"))
def verify(settings: Settings, _origins: dict[str, str], uri: str) -> None:
    """Check a published run: its files, and its embeddings."""
    from mnrl_job.pipeline.verify import verify

    result = verify(uri, settings)
    model = f"the model gives the same embeddings (max difference {result.max_difference:.2g})" if result else ""
    logs.log(f"{uri} verified: all hashes match; {model or 'there is no model to reload'}")


@commands.command()
@click.argument("uri")
@click.option(
    "--format",
    "formats",
    type=click.Choice(get_args(ExportFormat)),
    multiple=True,
    required=True,
    help="A format to export to; give it again for another.",
)
@functools.partial(with_settings, fields=EXPORT_SETTINGS)
def export(settings: Settings, _origins: dict[str, str], uri: str, formats: tuple[ExportFormat, ...]) -> None:
    """Export a published model to ONNX or OpenVINO."""
    from mnrl_job.pipeline.export import export_run
    from mnrl_job.report.export_report import show_exports

    _, metric = settings.primary_eval
    show_exports(export_run(uri, formats, settings), metric)


@commands.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1)
@click.option(
    "--output",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    default="comparison.html",
    metavar="FILE",
    help="The page to write. Default: comparison.html.",
)
@functools.partial(with_settings, fields=("work_dir", "s3_addressing_style", "log_format"))
def compare(settings: Settings, _origins: dict[str, str], runs: tuple[str, ...], page: Path) -> None:
    """Compare published runs with the first one on the same queries: a table with paired intervals, and a page."""
    from mnrl_job.pipeline.compare import compare_runs
    from mnrl_job.report.run_result import show_result

    for pair in compare_runs(runs, page, settings):
        logs.log(f"A is {pair.uris[0]}, B is {pair.uris[1]}")
        show_result(pair.metrics, labels=pair.labels)
    logs.log(f"compared {len(runs)} runs; the page is {page}")


@commands.command()
@click.option(
    "--format", "output_format", type=click.Choice(["table", "env", "json-schema", "markdown"]), default="table"
)
@with_settings
def settings(settings: Settings, origins: dict[str, str], output_format: str) -> None:
    """Print all settings and their values."""
    formats = {
        "env": documentation.as_env,
        "json-schema": documentation.as_json_schema,
        "markdown": documentation.as_markdown,
    }
    is_table = output_format not in formats
    click.echo(documentation.as_table(settings, origins) if is_table else formats[output_format]())


def conclude(outcome: "RunOutcome") -> None:
    """Print the metrics as a table to stdout, then log the result."""
    from mnrl_job.evaluation.general_guard import guard_summary
    from mnrl_job.report.run_result import show_result

    if outcome.by_peer:
        logs.log(f"node 0 has published {outcome.uri}")
        return
    if outcome.metrics is None:
        logs.log(f"{outcome.uri} is already published with these settings; nothing to do")
        return
    show_result(outcome.metrics, outcome.uri)
    primary = outcome.metrics["primary_metric"]
    word = "finished" if primary and (primary["delta"] or 0) < 0 else "succeeded"
    general = guard_summary(outcome.metrics["evaluation"])
    logs.log(f"{word}: {_verdict(primary)}{general}{'; ' * bool(general)}the run is in {outcome.uri}")


def _verdict(primary: Mapping[str, Any] | None) -> str:
    if primary is None:
        return "not evaluated; "
    if primary["after"] is None:
        return f"{primary['name']} is {primary['before']:.4f}; "
    if primary["delta"]:
        change = "rose" if primary["delta"] > 0 else "fell"
        return f"{primary['name']} {change} from {primary['before']:.4f} to {primary['after']:.4f}; "
    saturated = ", and this eval set cannot show a gain" if primary["saturated"] else ""
    return f"{primary['name']} stayed at {primary['before']:.4f}{saturated}; "


def main() -> int:
    """Run a command. Its result or error becomes the exit code, the last log line and the termination log."""
    out, err = logs.PipeSafeStream(sys.stdout), logs.PipeSafeStream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _run_command()


def _run_command() -> int:
    log_format = os.environ.get("MNRL_LOG_FORMAT", "").strip()
    logs.set_up("text" if log_format == "text" else "json" if log_format == "json" else "auto")
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        return fail_usage(error)
    except (click.Abort, KeyboardInterrupt):
        return fail(InternalError("interrupted"))
    except JobError as error:
        return fail(error)
    except Exception as error:
        return fail(InternalError(f"{type(error).__name__}: {error}", traceback.format_exc()))
    return 0


def fail_usage(error: click.ClickException) -> int:
    """Show a usage error as click does, also for options of earlier versions; but exit as for bad settings."""
    if isinstance(error, click.NoSuchOption):
        field = error.option_name.removeprefix("--").replace("-", "_")
        if reason := REMOVED.get(field):
            error = click.UsageError(f"{error.option_name} is no longer an option: {reason}; remove it", error.ctx)
        elif renamed := RENAMED.get(field):
            error = click.UsageError(f"{error.message} Did you mean {flag_name(renamed)!r}?", error.ctx)
    failure = SettingsError(error.format_message())
    if logs.are_json():
        return fail(failure)
    error.show(shown := io.StringIO())
    click.echo(redact(shown.getvalue()), err=True, nl=False)
    write_termination_log(failure)
    return failure.code


def fail(failure: JobError) -> int:
    """Log a failure: a traceback for a bug, one message for all else. Returns the exit code."""
    trace = failure.trace if isinstance(failure, InternalError) else ""
    if trace and not logs.are_json():
        click.echo(redact(trace), err=True)
    if isinstance(failure, GateError) and failure.metrics:
        from mnrl_job.report.run_result import show_result

        show_result(failure.metrics)
    retry = "; a retry may help" if failure.retry_helps else ""
    fields = failure.as_dict() | ({"traceback": trace} if trace else {})
    logs.LOG.error(f"{failure} (exit {failure.code}, {failure.kind}{retry})", extra={"fields": fields})
    write_termination_log(failure)
    return failure.code


def write_termination_log(failure: JobError) -> None:
    """Write the failure where Kubernetes shows it, if there is such a file."""
    with contextlib.suppress(OSError):
        if TERMINATION_LOG.exists():
            short = failure.as_dict() | {"message": redact(str(failure))[:TERMINATION_LOG_CHARACTERS]}
            line = dumps(redacted(short), ensure_ascii=False) + "\n"
            # Unpaired surrogates, as in a file's name, become JSON escapes.
            TERMINATION_LOG.write_text(line, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
