"""The charts of the page."""

import json
import re

from mnrl_job.report.page.charts import Series, line_chart, scale
from tests.report.page_reader import Reader
from tests.report.run_outputs import log


def test_charts_have_descriptions_and_tables(run):
    page = Reader(run.page())
    titles = [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Selection split while training",
        "Your pairs by fraction of trained weights",
        "General search by fraction of trained weights",
        "In-batch accuracy",
        "Margin of the positive",
        "Anisotropy",
    ]
    titles += ["Pairs per second", "Elapsed time in seconds", "Memory in GB"]
    drawn = [attrs["aria-label"] for attrs in page.attributes("svg") if attrs.get("role") == "img"]
    assert [label.partition(". ")[0] for label in drawn] == titles
    assert "From 0.001 at step" not in drawn[0]
    assert re.search(r"to 0 at step 60; lowest 0 at step 60, highest 0.001 at step 6", drawn[1])
    faint = [attrs for attrs in page.attributes("polyline") if attrs["class"] == "line faint"]
    assert len(faint) == 5, "what was logged, behind a running mean"
    assert drawn[4].endswith("From 0.5 at α 0 to 0.6 at α 1; lowest 0.5 at α 0, highest 0.6 at α 1.")
    assert "a mixture of the trained weights, 0.5 of it," in page.text
    assert "No collapse." in page.text


def test_too_few_steps_do_not_rule_out_a_collapse(run):
    (run.staging / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log()[:3]))
    text = Reader(run.page()).text
    assert "Too few steps were logged to check" in text
    assert "No collapse." not in text


def test_a_chart_can_have_one_point_equal_points_or_none():
    assert "circle" in line_chart("Loss", [1], [Series("loss", [0.5])]).svg
    assert "polyline" in line_chart("Loss", [1, 2], [Series("loss", [0.5, 0.5])]).svg
    assert line_chart("Loss", [1, 2], [Series("loss", [None, None])]) is None
    assert scale(0, 1, 0, 100).ticks == (0, 0.25, 0.5, 0.75, 1)
    assert scale(1, 7, 0, 100, loose=False, integer=True).ticks == (2, 4, 6)


def test_bands_are_named_and_labels_of_equal_scores_are_one(run):
    run.metrics["primary_metric"] |= {"before": 1.0, "after": 1.0, "delta": 0.0}
    page = run.page()
    assert "95 % interval" in re.findall(r'<span class="key band">(.*?)</span>', page)
    assert "margin" in re.findall(r'<span class="key band">(.*?)</span>', page)
    labels = re.findall(r'<text class="mark" x="([\d.]+)" y="30">(.*?)</text>', page)
    assert [label for _, label in labels] == ["before 1.000 → after 1.000"]
    assert 100 < float(labels[0][0]) < 360
