"""The run to look at: `report.html`, one page with everything in it, which asks the network for nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.report.page.curves import curves, while_training
from mnrl_job.report.page.formatting import count, cut, moment, signed
from mnrl_job.report.page.highlights import highlights
from mnrl_job.report.page.metric_rows import scores, slope
from mnrl_job.report.page.query_explorer import Explorer, explore
from mnrl_job.report.page.tables import hashes, lineage, phases, setting_rows, speed, training_facts
from mnrl_job.report.page.verdict import judged, verdict
from mnrl_job.system.secrets import redact

FOLDER = Path(__file__).parent / "page"


def report(
    staging: Path,
    content: Mapping[str, Any],
    settings: Settings,
    eval_sets: Sequence[EvalSet],
    settings_sha256: str,
    inputs: Mapping[str, str],
) -> str:
    """Make the page from what the run leaves.

    Args:
        staging: holds `training_log.jsonl` and `audit.json`, where something was trained, and `rankings/`.
        content: that of `metrics.json`.
        settings: the run's.
        eval_sets: where the texts are that rankings speak of.
        settings_sha256: the hash of the settings that can change the result.
        inputs: the SHA-256 of each input, by name.
    """
    log = _log(staging / "training_log.jsonl")
    audit = staging / "audit.json"
    template = _environment().get_template("template.html")
    return template.render(
        **_code(),
        content=content,
        verdict=verdict(content, log),
        slope=slope(content),
        scores=scores(content),
        explorers=_explorers(staging / "rankings", content, eval_sets),
        curves=curves(log, settings.batch_size),
        scored=while_training(content),
        training=training_facts(content),
        speed=speed(content),
        phases=phases(content),
        highlights=highlights(json.loads(audit.read_text(encoding="utf-8"))) if audit.exists() else (),
        settings=setting_rows(settings),
        lineage=lineage(content, settings_sha256),
        hashes=hashes(content, inputs),
    )


def _environment() -> Environment:
    """Every text is escaped, and secrets are starred out of it first."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: redact(value) if type(value) is str else value,
    )
    environment.filters.update(count=count, cut=cut, moment=moment, signed=signed)
    return environment


def _explorers(rankings: Path, content: Mapping[str, Any], eval_sets: Sequence[EvalSet]) -> list[Explorer]:
    """The queries of each eval set, of the one that the run is judged by first."""
    judged_by, metric = judged(content)
    ordered = sorted(eval_sets, key=lambda one: one.name != judged_by)
    return [explore(rankings / f"{one.name}.jsonl", one, metric) for one in ordered]


def _log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _code() -> dict[str, str]:
    """Style and script, and the policy: the browser may apply this one and run that one, and nothing else."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}  # noqa: S704 - ours
