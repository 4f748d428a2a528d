"""The audit for `check`: findings, and rows with the same highlights as the HTML report."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mnrl_job.report.highlights import describe_lengths, find_highlights
from mnrl_job.report.page.formatting import truncate
from mnrl_job.system.console import new_grid, show, text
from mnrl_job.system.finding import Finding
from mnrl_job.training.results import TokenLengths

MAX_CHARACTERS = 90
# Warn if more than this share of a query's in-batch negatives is masked.
MAX_MASKED = 0.1
STATUSES = {"passed": ("green", logging.INFO), "warning": ("yellow", logging.WARNING), "failed": ("red", logging.ERROR)}


def with_lengths(audit: dict[str, Any], lengths: TokenLengths | None) -> dict[str, Any]:
    """The audit with the token lengths counted by the workers, unless the preparation has counted them."""
    return audit | {"token_lengths": asdict(lengths) if lengths else audit.get("token_lengths")}


def audit_findings(audit: dict[str, Any]) -> Iterator[Finding]:
    """Duplicates and leaks in a sample are fewer than in all pairs."""
    duplicates, batches, leakage = audit["duplicates"], audit["batches"], audit["leakage"]
    sampled, least = ("of the sample ", "at least ") if "sample" in audit else ("", "")
    yield Finding(
        "training pairs",
        "passed",
        f"{audit['rows_to_train_on']} {sampled}to train on, {least}{duplicates['repeated_rows']} exact duplicates, "
        f"{duplicates['distinct_positives']} distinct positives, "
        f"{audit['near_duplicates']['texts']} of them near-duplicates in {audit['near_duplicates']['groups']} groups",
    )
    if leakage["rows"]:
        detail = (
            f"{least}{leakage['rows']} training pairs are also in an eval set; MNRL_LEAKAGE_POLICY={leakage['policy']}"
        )
        yield Finding("leakage", "warning", detail, "see the examples below; split the data again")
    if contradicting := audit["contradictions"]["negatives"]:
        detail = (
            f"{least}{contradicting} negatives are positives of the same anchor elsewhere, and not used as negatives"
        )
        yield Finding("contradictions", "warning", detail, "see the examples below; remove one of the two")
    steps = sum(batches["batches_an_epoch"].values())
    detail = f"{steps} of {batches['batch_size']} pairs per epoch"
    if batches["rows_used_an_epoch"] < audit["rows_to_train_on"] // 2:
        remedy = "lower the batch size, or change the weights of the sources"
        yield Finding("batches", "warning", f"{detail}; less than half of the pairs are used", remedy)
    elif batches["masked_share_of_negatives"] > MAX_MASKED:
        largest = batches["largest_batch_without_duplicates"]
        masked = f"{batches['masked_share_of_negatives']:.0%} of the in-batch negatives are duplicates and masked"
        remedy = "see the most frequent texts below"
        if largest > 1:
            remedy = f"a batch size of {largest} or less avoids that"
        yield Finding("batches", "warning", f"{detail}; {masked}", remedy)
    else:
        yield Finding("batches", "passed", detail)


def show_finding(finding: Finding) -> None:
    """Print a row with the status, the check and the details, with the remedy below."""
    color, level = STATUSES[finding.status]
    grid = new_grid(7, 20, None)
    remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
    grid.add_row(text(finding.status, color), text(finding.check), text(finding.detail + remedy))
    show(grid, f"{finding.check}: {finding.detail}", asdict(finding), level)


def show_audit(audit: dict[str, Any]) -> None:
    """Print the sources and highlights of the audit to stdout."""
    from rich.console import Group

    grid = new_grid(None, None)
    grid.columns[0].justify = "right"
    for number, line in audit_rows(audit):
        grid.add_row(text(number), text(line))
    highlights = [asdict(highlight) for highlight in find_highlights(audit)]
    fields: dict[str, Any] = {
        name: audit.get(name) for name in ("sample", "sources", "rows_to_train_on", "token_lengths")
    }
    show(Group("", grid, ""), "audit of the training data", fields | {"highlights": highlights})


def audit_rows(audit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The sources and highlights as numbers and what they count."""
    if sample := audit.get("sample"):
        rows, of = f"{sample['rows']:,}", f"{sample['rows_in_all']:,}"
        yield rows, f"of about {of} rows are in the sample that is counted below; sources and batches are of all"
    for source in audit["sources"]:
        yield f"{source['rows']:,}", f"{source['name']} ({source['uri']})"
    yield f"{audit['rows_to_train_on']:,}", "to train on"
    lengths = audit.get("token_lengths") or {"columns": {}}
    for name, column in lengths["columns"].items():
        yield "", f"{name} tokens: median {describe_lengths(column)}"
    for highlight in find_highlights(audit):
        meaning = f": {highlight.meaning}" if highlight.meaning else ""
        yield highlight.number, f"{highlight.title}{meaning}"
        for example in highlight.examples:
            yield "", " | ".join(truncate(f"{name} {value}", MAX_CHARACTERS) for name, value in example)
