"""Commands, and the place where errors become exit codes and messages."""

import contextlib
import functools
import logging
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
from mnrl_job.system.finding import Finding
from mnrl_job.system.json_text import dumps
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
SHOWN_METRICS = ("ndcg@10", "mrr@10", "recall@10", "accuracy@1")


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
    from mnrl_job.pipeline.train import train

    conclude(train(settings))


@commands.command()
@with_settings
def evaluate(settings: Settings, _origins: dict[str, str]) -> None:
    """Score the base model on the eval sets, without training."""
    from mnrl_job.pipeline.evaluate import evaluate

    conclude(evaluate(settings))


@commands.command()
@with_settings
def check(settings: Settings, _origins: dict[str, str]) -> None:
    """Check everything that a training run needs, and estimate how long it takes."""
    from mnrl_job.pipeline.check import check
    from mnrl_job.report.audit import audit_text

    findings, audit = check(settings, lambda finding: click.echo(_row(finding)))
    if audit:
        click.echo(redact(f"\n{audit_text(audit)}\n"))
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
    """Export a published run to ONNX, OpenVINO or 8-bit ONNX; compare, score and publish each beside it."""
    from mnrl_job.pipeline.export import export_run
    from mnrl_job.report.export_report import export_line

    _, metric = settings.primary_eval
    for report in export_run(uri, formats, settings):
        click.echo(export_line(report, metric))


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

    for pair in compare_runs(runs, page, settings):
        click.echo(redact(f"A is {pair.uris[0]}, B is {pair.uris[1]}"))
        show(pair.metrics, pair.labels)
    logs.log(f"compared {len(runs)} runs; the page is {page}")


@commands.command()
@click.option(
    "--format", "output_format", type=click.Choice(["table", "env", "json-schema", "markdown"]), default="table"
)
@with_settings
def settings(settings: Settings, origins: dict[str, str], output_format: str) -> None:
    """Print all settings: a table with current values, env.example, a JSON schema or Markdown."""
    formats = {
        "env": documentation.as_env,
        "json-schema": documentation.as_json_schema,
        "markdown": documentation.as_markdown,
    }
    is_table = output_format not in formats
    click.echo(documentation.as_table(settings, origins) if is_table else formats[output_format]())


def _row(finding: Finding) -> str:
    """A finding as a line of the table, and its remedy as a second one."""
    color = {"passed": "green", "warning": "yellow", "failed": "red"}[finding.status]
    line = f"{click.style(f'{finding.status:<8}', fg=color)} {finding.check:<22} {finding.detail}"
    return redact(line + (f"\n{'':<32}-> {finding.remedy}" if finding.remedy else ""))


def conclude(outcome: "RunOutcome") -> None:
    """Print the metrics as a table to stdout, then log the result."""
    from mnrl_job.evaluation.general_guard import guard_summary

    if outcome.by_peer:
        logs.log(f"node 0 has published {outcome.uri}")
        return
    if outcome.metrics is None:
        logs.log(f"{outcome.uri} is already published with these settings; nothing to do")
        return
    show(outcome.metrics)
    primary = outcome.metrics["primary_metric"]
    word = "finished" if primary and (primary["delta"] or 0) < 0 else "succeeded"
    general = guard_summary(outcome.metrics["evaluation"])
    logs.log(f"{word}: {_verdict(primary)}{general}{'; ' * bool(general)}the run is in {outcome.uri}")


def show(metrics: Mapping[str, Any], labels: tuple[str, str] = ("before", "after")) -> None:
    """Print the metrics of each eval set as a table to stdout."""
    primary = metrics["primary_metric"]
    for name, evaluation in metrics["evaluation"].items():
        metric = primary["name"].rpartition(".")[2]
        click.echo(
            "\n".join(
                [f"\n{name}\n{_table(evaluation, metric, labels)}", *_dimensions(evaluation["dimensions"], metric)]
            )
        )
    if metrics["evaluation"]:
        click.echo()


def _table(evaluation: dict[str, Any], primary: str, labels: tuple[str, str]) -> str:
    bm25, before, after = evaluation["bm25"], evaluation["before"], evaluation["after"]
    header = f"  {'metric':<14}" + f"{'bm25':>8}" * bool(bm25) + f"{labels[0]:>8}"
    lines = [header + (f"{labels[1]:>8}{'gain':>9}   {'95 % interval':<21}won/lost/tied" if after else "")]
    for metric in dict.fromkeys((primary, *(shown for shown in SHOWN_METRICS if shown in before))):
        line = f"  {metric:<14}" + (f"{bm25[metric]:>8.4f}" if bm25 else "") + f"{before[metric]:>8.4f}"
        if after:
            low, high = evaluation["confidence_interval"][metric]
            counts = "/".join(str(count) for count in evaluation["wins_losses"][metric].values())
            gain = evaluation["delta"][metric]
            line += f"{after[metric]:>8.4f}{gain:>+9.4f}   {low:+.4f} to {high:+.4f}   {counts}"
        lines.append(line)
    return "\n".join(lines)


def _dimensions(dimensions: dict[str, Any], metric: str) -> list[str]:
    """The primary metric with truncated embeddings, a line per dimension."""
    lines = [f"  {metric} with embeddings cut to"] if dimensions else []
    for dimension, scores in dimensions.items():
        before, after = scores["before"][metric], scores["after"] and scores["after"][metric]
        line = f"  {dimension:<14}{before:>8.4f}"
        lines.append(line + (f"{after:>8.4f}{after - before:>+9.4f}" if scores["after"] else ""))
    return lines


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
    except click.NoSuchOption as error:
        field = error.option_name.removeprefix("--").replace("-", "_")
        if reason := REMOVED.get(field):
            return fail(SettingsError(f"{error.option_name} is no longer an option: {reason}; remove it"))
        renamed = RENAMED.get(field)
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
    """Log a failure: a traceback for a bug, one message for all else. Returns the exit code."""
    if isinstance(failure, InternalError) and failure.trace:
        click.echo(redact(failure.trace), err=True)
    if isinstance(failure, GateError) and failure.metrics:
        show(failure.metrics)
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
            # Unpaired surrogates, as in a file's name, become JSON escapes.
            TERMINATION_LOG.write_text(line, encoding="utf-8", errors="backslashreplace")
    return failure.code


if __name__ == "__main__":
    sys.exit(main())
