"""The last line of a run that is published: never "succeeded" over a score that fell."""

import logging

import pytest

from mnrl_job.cli import conclude
from mnrl_job.pipeline.finalize import RunOutcome


def content(before, after):
    delta = None if after is None else after - before
    primary = {"name": "faq.ndcg@10", "before": before, "after": after, "delta": delta, "saturated": before >= 1}
    return {"evaluation": {}, "primary_metric": primary, "verification": None}


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (0.5, 0.75, "succeeded: faq.ndcg@10 rose from 0.5000 to 0.7500; the run is in out/r"),
        (0.5, 0.25, "finished: faq.ndcg@10 fell from 0.5000 to 0.2500; the run is in out/r"),
        (1.0, 0.9, "finished: faq.ndcg@10 fell from 1.0000 to 0.9000; the run is in out/r"),
        (0.5, 0.5, "succeeded: faq.ndcg@10 stayed at 0.5000; the run is in out/r"),
        (
            1.0,
            1.0,
            "succeeded: faq.ndcg@10 stayed at 1.0000, and this eval set cannot show a gain; the run is in out/r",
        ),
        (0.5, None, "succeeded: faq.ndcg@10 is 0.5000; the run is in out/r"),
    ],
)
def test_it_says_what_became_of_the_score(before, after, line, caplog):
    with caplog.at_level(logging.INFO, "mnrl_job"):
        conclude(RunOutcome("out/r", content(before, after)))
    assert caplog.messages[-1] == line


def test_a_run_without_an_eval_set_says_so(caplog):
    with caplog.at_level(logging.INFO, "mnrl_job"):
        conclude(RunOutcome("out/r", {"evaluation": {}, "primary_metric": None, "verification": None}))
    assert caplog.messages[-1] == "succeeded: not evaluated; the run is in out/r"
