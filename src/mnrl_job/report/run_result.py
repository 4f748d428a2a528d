"""The result of a run on stdout: its scores, what was verified, where the files are, and how to use the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from mnrl_job.storage import is_remote, local_path
from mnrl_job.storage.uri import join
from mnrl_job.system.console import new_table, show, text
from mnrl_job.system.json_text import dumps

SHOWN_METRICS = ("ndcg@10", "mrr@10", "recall@10", "accuracy@1")
HEADERS = {"confidence_interval": "95 % interval", "wins_losses": "won/lost/tied"}
FORMATS = {
    "gain": "{:+.4f}",
    "confidence_interval": "{0[0]:+.4f} to {0[1]:+.4f}",
    "wins_losses": "{0[won]}/{0[lost]}/{0[tied]}",
}
CODE = """\
  from sentence_transformers import SentenceTransformer
  model = SentenceTransformer({folder})
  model.similarity(model.encode_query("query"), model.encode_document(["text"]))"""

Row = dict[str, Any]


def show_result(metrics: Mapping[str, Any], uri: str = "", labels: tuple[str, str] = ("before", "after")) -> None:
    """Print the scores; of a run that succeeded, given its URI, also the files and how to use the model."""
    from rich.console import Group

    primary = (metrics["primary_metric"] or {"name": ""})["name"].rpartition(".")[2]
    fields: Row = {"evaluation": {}}
    blocks: list[Any] = []
    for name, evaluation in metrics["evaluation"].items():
        shown = dict.fromkeys((primary, *(metric for metric in SHOWN_METRICS if metric in evaluation["before"])))
        rows = {metric: _row(evaluation, metric) for metric in shown}
        blocks += [text(f"\n{name}", "bold"), _table("metric", rows, labels)]
        fields["evaluation"][name] = rows
        if dimensions := {size: _row(scores, primary) for size, scores in evaluation["dimensions"].items()}:
            blocks.append(_table(f"{primary} at dimension", dimensions, labels))
            rows[primary]["dimensions"] = dimensions
    if uri:
        fields |= {"verification": metrics["verification"], "report": join(uri, "report.html")}
        fields |= {"model": join(uri, "model")} if metrics["verification"] else {}
        blocks += [text(line, style, wrap=False) for line, style in _usage(fields)]
    if blocks:
        show(Group(*blocks, ""), "result", fields)


def _row(scores: Mapping[str, Any], metric: str) -> Row:
    bm25 = {"bm25": scores["bm25"][metric]} if scores.get("bm25") else {}
    before = scores["before"][metric]
    if not scores["after"]:
        return bm25 | {"score": before}
    after = scores["after"][metric]
    row = bm25 | {"before": before, "after": after, "gain": after - before}
    return row | {name: scores[name][metric] for name in HEADERS if name in scores}


def _table(head: str, rows: dict[str, Row], labels: tuple[str, str]) -> Any:
    columns = list(next(iter(rows.values())))
    headers = HEADERS | dict(zip(("before", "after"), labels, strict=True))
    table = new_table(head, *(headers.get(column, column) for column in columns))
    for metric, row in rows.items():
        low, high = row.get("confidence_interval", (0, 0))
        color = "green" if low > 0 else "red" if high < 0 else ""
        cells = (FORMATS.get(column, "{:.4f}").format(row[column]) if column in row else "" for column in columns)
        table.add_row(metric, *map(text, cells, [color if column == "gain" else "" for column in columns]))
    return table


def _usage(fields: Row) -> Iterator[tuple[str, str]]:
    """What was verified, where the files are, and how to use the model: lines with their styles."""
    yield f"\nverified  every file{', and that the saved model gives the same embeddings' * ('model' in fields)}", ""
    yield f"report    {fields['report']}", ""
    if model := fields.get("model"):
        yield f"model     {model}", ""
        fetched = f", after `aws s3 cp --recursive {model} model`" if is_remote(model) else ""
        yield f"\nSearch with it, in Python{fetched}:", ""
        folder = "model" if is_remote(model) else str(local_path(model, "MNRL_OUTPUT"))
        yield CODE.format(folder=dumps(folder, ensure_ascii=False)), "cyan"
