"""`report.html`: one self-contained page without network access."""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.evaluation.general_guard import guard_summary
from mnrl_job.report.highlights import find_highlights
from mnrl_job.report.page.curves import evaluation_charts, interpolation_charts, training_curves
from mnrl_job.report.page.formatting import count, document, signed, timestamp
from mnrl_job.report.page.metric_rows import metric_tables, slope_chart
from mnrl_job.report.page.next_steps import next_steps
from mnrl_job.report.page.query_explorer import Explorer, build_explorer
from mnrl_job.report.page.tables import input_hashes, lineage_rows, phase_rows, setting_rows, speed_rows, training_rows
from mnrl_job.report.page.verdict import in_plain_words, primary_eval_and_metric, reach_verdict
from mnrl_job.storage import is_remote
from mnrl_job.storage.uri import join
from mnrl_job.system.quantities import duration
from mnrl_job.system.secrets import redact

FOLDER = Path(__file__).parent / "page"


def render_report(
    staging: Path,
    metrics: Mapping[str, Any],
    settings: Settings,
    eval_sets: Sequence[EvalSet],
    settings_sha256: str,
    inputs: Mapping[str, str],
) -> str:
    """Render the page from the outputs of a run, in `staging` and `metrics`, the content of `metrics.json`.

    `settings_sha256` is of the settings that can change the result; `inputs` has the SHA-256 of each input by name.
    """
    log = _read_log(staging / "training_log.jsonl")
    audit_path = staging / "audit.json"
    audit = json.loads(audit_path.read_text(encoding="utf-8")) if audit_path.exists() else None
    explorers = _explorers(staging / "rankings", metrics, eval_sets)
    verdict = reach_verdict(metrics, log)
    return render_page(
        "template.html",
        metrics=metrics,
        verdict=in_plain_words(verdict, metrics, explorers[0]) if explorers else verdict,
        next_steps=list(next_steps(metrics, audit, log)) if metrics["training"] and audit else [],
        usage=usage(join(settings.output, metrics["run"]["id"])),
        general_search=guard_summary(metrics["evaluation"]),
        slope_chart=slope_chart(metrics),
        metric_tables=metric_tables(metrics),
        explorers=explorers,
        curves=training_curves(log, settings.batch_size),
        evaluation_charts=evaluation_charts(metrics),
        interpolation_charts=interpolation_charts(metrics),
        training=training_rows(metrics),
        speed=speed_rows(metrics),
        phases=phase_rows(metrics),
        highlights=find_highlights(audit) if audit else (),
        settings=setting_rows(settings),
        lineage=lineage_rows(metrics, settings_sha256),
        hashes=input_hashes(metrics, inputs),
    )


def render_page(template: str, **content: Any) -> str:
    """Render a page with its style and script inside."""
    return _environment().get_template(template).render(**_inline_assets(), **content)


def usage(run_uri: str) -> str:
    """Python that loads the model of a run and searches."""
    folder, download = join(run_uri, "model"), ""
    if is_remote(run_uri):
        folder, download = "model", f"# first: aws s3 cp --recursive {shlex.quote(folder)} model\n"
    return f"""\
{download}from sentence_transformers import SentenceTransformer, util

model = SentenceTransformer({folder!r})
documents = model.encode_document(["one text", "another"])
query = model.encode_query("a question")
print(util.semantic_search(query, documents))"""


def _environment() -> Environment:
    """Jinja with secrets redacted from all text, then HTML-escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: redact(value) if type(value) is str else value,
    )
    environment.filters.update(count=count, document=document, duration=duration, timestamp=timestamp, signed=signed)
    return environment


def _explorers(rankings: Path, metrics: Mapping[str, Any], eval_sets: Sequence[EvalSet]) -> list[Explorer]:
    """The queries of each eval set, starting with the primary one."""
    primary, metric = primary_eval_and_metric(metrics)
    ordered = sorted(eval_sets, key=lambda eval_set: eval_set.name != primary)
    return [_explorer(rankings / f"{eval_set.name}.jsonl", metric, eval_set) for eval_set in ordered]


def _explorer(rankings: Path, metric: str, eval_set: EvalSet) -> Explorer:
    with rankings.open("rb") as handle:
        return build_explorer(eval_set.name, map(json.loads, handle), metric, eval_set)


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _inline_assets() -> dict[str, str]:
    """Style, script, and a content security policy that allows only these."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(asset.encode()).digest()).decode() for asset in (style, script)
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}  # noqa: S704 - from this package
