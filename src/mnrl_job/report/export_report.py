"""An export in numbers, `export.json`, and its model card."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mnrl_job.system.console import new_table, show, text
from mnrl_job.system.quantities import file_size
from mnrl_job.worker.results import Export

LOAD_RUN = 'SentenceTransformer("path/to/this/folder")'
# The precision that was compared and scored; by default OpenVINO multiplies in bf16 where the processor can.
MODEL_KWARGS = {"onnx": "", "openvino": ', model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}'}


def export_metrics(export: Export, manifest_sha256: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `export.json`: the fields of `Export`, the metrics by eval set, and their change.

    Args:
        export: as the worker reports it.
        manifest_sha256: of the run's manifest.
        run: the content of the run's `metrics.json`; `delta` compares with its scores where it has this eval set.
    """
    fields = asdict(export)
    del fields["evaluations"]
    metrics = {evaluation.name: evaluation.metrics for evaluation in export.evaluations}
    scores = {name: run["evaluation"][name]["after"] for name in metrics if name in run["evaluation"]}
    delta = {
        name: {metric: metrics[name][metric] - value for metric, value in after.items() if metric in metrics[name]}
        for name, after in scores.items()
    }
    return {
        "schema_version": 1,
        "run": {"id": run["run"]["id"], "manifest_sha256": manifest_sha256},
        **fields,
        "bytes": sum(export.files.values()),
        "metrics": metrics,
        "delta": delta,
    }


def export_card(run_card: str, report: Mapping[str, Any], metric: str) -> str:
    """The model card of the run, extended by how to load this export and how it compares, also by this metric."""
    backend = report["backend"]
    load = f'SentenceTransformer("path/to/this/folder", backend="{backend}"{MODEL_KWARGS[backend]})'
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    lines = [
        run_card.replace(LOAD_RUN, load).rstrip(),
        "",
        f"## Exported to {report['format']}",
        "",
        f"{file_size(report['bytes'])}, made with {packages}. The smallest cosine similarity of an embedding to "
        f"that of the trained model is {report['min_cosine']:.4f}.",
    ]
    if report["metrics"]:
        lines += ["", "| eval set | metric | score | change |", "|---|---|---|---|"]
    for name, metrics in report["metrics"].items():
        change = report["delta"].get(name, {}).get(metric)
        lines.append(f"| {name} | {metric} | {metrics[metric]:.4f} | {'–' if change is None else f'{change:+.4f}'} |")
    return "\n".join(lines) + "\n"


def show_exports(reports: Iterable[Mapping[str, Any]], metric: str) -> None:
    """Print size, similarity, speed and scores of each export to stdout, as soon as it is published."""
    for report in reports:
        table = new_table(
            "format", "size", "min cosine", "ms/text", "PyTorch", "eval set", metric, "change", texts=(0, 5)
        )
        milliseconds = (f"{1000 * report[name]:.1f}" for name in ("seconds_per_text", "pytorch_seconds_per_text"))
        figures = (file_size(report["bytes"]), f"{report['min_cosine']:.4f}", *milliseconds)
        for name, metrics in (report["metrics"] or {"": {}}).items():
            score = f"{metrics[metric]:.4f}" if metric in metrics else ""
            change = report["delta"].get(name, {}).get(metric)
            table.add_row(report["format"], *figures, text(name), score, "" if change is None else f"{change:+.4f}")
        show(table, f"exported to {report['format']}", report)
