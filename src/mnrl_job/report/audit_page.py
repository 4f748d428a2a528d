"""The audit for people: a page of text, and findings where something should be done."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mnrl_job.report.page.formatting import cut, one_line
from mnrl_job.system.finding import Finding
from mnrl_job.training.results import TokenLengths

SHOWN_TEXTS = 5
SHOWN_CHARACTERS = 90
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def with_lengths(audit: dict[str, Any], lengths: TokenLengths | None) -> dict[str, Any]:
    """The audit with what the workers counted."""
    return audit | {"token_lengths": asdict(lengths) if lengths else None}


def audit_findings(audit: dict[str, Any]) -> Iterator[Finding]:
    """What `check` tells about the training pairs, as rows of its table."""
    duplicates, batches, leakage = audit["duplicates"], audit["batches"], audit["leakage"]
    yield Finding(
        "training pairs",
        "passed",
        f"{audit['rows_to_train_on']} to train on, {duplicates['repeated_rows']} exact repetitions, "
        f"{duplicates['distinct_positives']} distinct positives, "
        f"{audit['near_duplicates']['texts']} of them near-duplicates in {audit['near_duplicates']['groups']} groups",
    )
    if leakage["rows"]:
        told = f"{leakage['rows']} training pairs also occur in an eval set; MNRL_LEAKAGE_POLICY={leakage['policy']}"
        yield Finding("leakage", "warning", told, "see the examples below; split anew so that none does")
    if contradicting := audit["contradictions"]["negatives"]:
        told = f"{contradicting} negatives are positives of the same anchor elsewhere; they are not used as negatives"
        yield Finding("contradictions", "warning", told, "see the examples below; take out the one or the other")
    steps = sum(batches["batches_an_epoch"].values())
    told = f"{steps} of {batches['batch_size']} pairs an epoch, {batches['mode']}: {batches['why']}"
    if batches["rows_used_an_epoch"] < audit["rows_to_train_on"] // 2:
        most = batches["largest_batch_that_uses_nearly_all_rows"]
        remedy = "see the most frequent texts below, and the weights of the sources"
        if 1 < most < batches["batch_size"]:
            remedy = f"a batch of {most} would use nearly all rows"
        yield Finding("batches", "warning", f"{told}; less than half of the pairs are used", remedy)
    else:
        yield Finding("batches", "passed", told)


def page(audit: dict[str, Any]) -> str:
    """All of the audit that a person would want to see, as lines of text."""
    sections = {
        "Rows": _rows(audit),
        "Repeated texts": _repeats(audit),
        "Batches": _batches(audit["batches"]),
        "Token lengths": _lengths(audit.get("token_lengths")),
        "Odd texts": _oddities(audit["oddities"]),
    }
    return "\n\n".join("\n".join([name, *(f"  {line}" for line in lines)]) for name, lines in sections.items() if lines)


def _rows(audit: dict[str, Any]) -> list[str]:
    lines = [f"{one['rows']:>9,}  {one['name']} ({one['uri']})" for one in audit["sources"]]
    lines += [f"{count:>9,}  rejected: {reason}" for reason, count in audit["rejected"].items()]
    filtered = audit["rows_filtered"]
    lines += [f"{filtered:>9,}  not taken by MNRL_ROW_FILTER"] if filtered else []
    leakage = audit["leakage"]
    for name, count in leakage["by_eval_set"].items():
        lines += [f"{count:>9,}  also in eval set {name} ({leakage['policy']})"] if count else []
    lines += [f"{'':>11}{_short(one['anchor'])}" for one in leakage["examples"]]
    lines += [f"{audit['rows_held_out']:>9,}  held out"] if audit["rows_held_out"] else []
    spared = audit["negatives_held_out"]
    lines += [f"{spared:>9,}  negatives that are held out elsewhere; they are not used as negatives"] if spared else []
    return [*lines, f"{audit['rows_to_train_on']:>9,}  to train on"]


def _repeats(audit: dict[str, Any]) -> list[str]:
    duplicates, near, skew = audit["duplicates"], audit["near_duplicates"], audit["skew"]
    lines = [
        f"{duplicates['repeated_rows']:>9,}  rows that repeat another row",
        f"{duplicates['anchors_with_several_positives']:>9,}  anchors with several positives",
        f"{duplicates['positives_with_several_anchors']:>9,}  positives with several anchors, "
        f"the most frequent has {skew['most_rows_of_one']} rows",
    ]
    if skew["most_rows_of_one"] > 1:
        shown = [one for one in skew["top"] if one["rows"] > 1][:SHOWN_TEXTS]
        lines += [f"{one['rows']:>11,}  {_short(one['text'])}" for one in shown]
    lines.append(
        f"{near['texts']:>9,}  near-duplicate positives in {near['groups']:,} groups, the largest {near['largest']}"
    )
    lines += [f"{'':>11}{_short(text)}" for text in (near["examples"] or [[]])[0]]
    contradictions = audit["contradictions"]
    if contradictions["negatives"]:
        lines.append(f"{contradictions['negatives']:>9,}  negatives that are positives of the same anchor")
        lines += [f"{'':>11}{_short(one['anchor'])}" for one in contradictions["examples"]]
    return lines


def _batches(batches: dict[str, Any]) -> list[str]:
    wrong = batches["false_negatives_in_a_batch"]
    lines = [
        f"{count:>9,}  batches of {batches['batch_size']} from {name}"
        for name, count in batches["batches_an_epoch"].items()
    ]
    return [
        *lines,
        f"{wrong['at_random']:>9,}  false negatives to be expected in a batch drawn at random",
        f"{wrong['as_planned']:>9,}  in a batch of this run ({batches['mode']})",
        f"{batches['largest_batch_that_uses_nearly_all_rows']:>9,}  is the largest batch that uses 98 % of the rows",
        f"{batches['largest_batch_at_most']:>9,}  is the largest that could be filled at all without repeating a text",
    ]


def _lengths(lengths: dict[str, Any] | None) -> list[str]:
    if not lengths:
        return []
    limit = f"cut at {lengths['max_seq_length']}" if lengths["max_seq_length"] else "read whole"
    lines = [f"in a sample of {lengths['rows']:,} rows; texts are {limit}"]
    for name, one in lengths["columns"].items():
        lines.append(
            f"{name}: half have up to {one['p50']:.0f}, 90 % {one['p90']:.0f}, 99 % {one['p99']:.0f}, "
            f"the longest {one['p100']:.0f}; {one['truncated']:.1%} are cut"
        )
    return lines


def _oddities(oddities: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in oddities.items():
        if one["rows"]:
            lines.append(f"{one['rows']:>9,}  {name.replace('_', ' ')}")
            lines += [f"{'':>11}{_short(row['anchor'])} | {_short(row['positive'])}" for row in one["examples"]]
    return lines


def _short(text: str) -> str:
    """One line of a text; control characters, which a terminal might obey, are shown as the replacement sign."""
    return cut(CONTROL.sub("\ufffd", one_line(text)), SHOWN_CHARACTERS)
