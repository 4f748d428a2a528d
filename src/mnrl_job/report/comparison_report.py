"""Runs on one page, each compared with the first one as a model after training is with the one before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnrl_job.report.html_report import render_page
from mnrl_job.report.page.metric_rows import metric_tables
from mnrl_job.report.page.query_explorer import build_explorer
from mnrl_job.report.page.verdict import in_plain_words, primary_eval_and_metric, reach_verdict


@dataclass(frozen=True, slots=True)
class RunPair:
    """The URIs of two runs, and their results by eval set in the form of `rankings/` and of `metrics.json`."""

    uris: tuple[str, str]
    rankings: Mapping[str, Sequence[dict[str, Any]]]
    metrics: Mapping[str, Any]
    labels: tuple[str, str] = ("A", "B")


def pair_metrics(first: Mapping[str, Any], evaluation: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What a page needs of `metrics.json`; `first` is that of the first run, whose primary metric decides."""
    name, (_, metric) = next(iter(evaluation)), primary_eval_and_metric(first)
    scores = {key: evaluation[name][key][metric] for key in ("before", "after", "delta")}
    return {
        "evaluation": evaluation,
        "data": first["data"],
        "primary_metric": {"name": f"{name}.{metric}", "saturated": False, **scores},
        "gate": {"passed": True},
    }


def comparison_page(pairs: Sequence[RunPair]) -> str:
    sections, explorers = [], []
    for pair in pairs:
        _, metric = primary_eval_and_metric(pair.metrics)
        own = [
            build_explorer(f"{name}: {' and '.join(pair.uris)}", lines, metric, labels=pair.labels)
            for name, lines in pair.rankings.items()
        ]
        verdict = in_plain_words(reach_verdict(pair.metrics, []), pair.metrics, own[0])
        sections.append((pair, verdict, metric_tables(pair.metrics)))
        explorers += own
    return render_page("comparison.html", sections=sections, explorers=explorers)
