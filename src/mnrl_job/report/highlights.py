"""Highlights of the audit: what stands out in the training pairs, with examples; only what was found."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mnrl_job.report.page.formatting import count, percent, plain, truncate

MAX_EXAMPLES = 5
MAX_CHARACTERS = 200
ODDITIES = {
    "mojibake": "pairs with mojibake",
    "html": "pairs with markup",
    "one_word_positives": "documents of one word",
    "anchor_equals_positive": "queries equal to their document",
}

Example = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Highlight:
    """A finding: its number, what it counts, what it means, and examples as named texts."""

    number: str
    title: str
    meaning: str = ""
    examples: tuple[Example, ...] = ()


def find_highlights(audit: dict[str, Any]) -> tuple[Highlight, ...]:
    return (
        *_excluded(audit),
        *_eval_sets(audit.get("eval", {})),
        *_leaked(audit["leakage"]),
        *_repeated(audit),
        *_contradicting(audit["contradictions"]),
        *_odd(audit["oddities"]),
        *_batches(audit.get("batches")),
        *_truncated(audit.get("token_lengths")),
    )


def _excluded(audit: dict[str, Any]) -> Iterator[Highlight]:
    if total := sum(audit["rejected"].values()):
        yield Highlight(count(total), "rows rejected", _reasons(audit["rejected"]), _rejected_rows(audit))
    for key, title, meaning in (
        ("rows_filtered", "rows excluded by MNRL_ROW_FILTER", ""),
        ("rows_held_out", "rows held out", ""),
        ("negatives_held_out", "negatives held out elsewhere", "They are not used as negatives."),
    ):
        if audit[key]:
            yield Highlight(count(audit[key]), title, meaning)


def _eval_sets(eval_sets: dict[str, Any]) -> Iterator[Highlight]:
    for name, eval_set in eval_sets.items():
        if own := eval_set["own_documents"]:
            meaning = "They are in the corpus under the same ids, and left out of their own rankings."
            yield Highlight(count(own), f"queries of {name} in its corpus", meaning)
        if total := sum(eval_set["rejected"].values()):
            rows = _rejected_rows(eval_set)
            yield Highlight(count(total), f"rows of {name} rejected", _reasons(eval_set["rejected"]), rows)


def _reasons(rejected: dict[str, int]) -> str:
    return f"By reason: {', '.join(f'{reason} {count(number)}' for reason, number in rejected.items())}."


def _rejected_rows(part: dict[str, Any]) -> tuple[Example, ...]:
    rows = part["rejected_rows"][:MAX_EXAMPLES]
    return tuple(((row["where"], _short(f"{row['reason']}: {row['detail']}")),) for row in rows)


def _leaked(leakage: dict[str, Any]) -> Iterator[Highlight]:
    if leakage["rows"]:
        by_set = ", ".join(f"{name} {count(rows)}" for name, rows in leakage["by_eval_set"].items() if rows)
        consequences = {"remove": " They were removed.", "keep": " They were kept, so the scores are too high."}
        meaning = f"They are also in an eval set: {by_set}.{consequences.get(leakage['policy'], '')}"
        yield Highlight(count(leakage["rows"]), "pairs leaked", meaning, _pairs(leakage["examples"]))


def _repeated(audit: dict[str, Any]) -> Iterator[Highlight]:
    duplicates, skew, near = audit["duplicates"], audit["skew"], audit["near_duplicates"]
    if duplicates["repeated_rows"]:
        yield Highlight(count(duplicates["repeated_rows"]), "rows that repeat another row exactly")
    for key, title in (
        ("anchors_with_several_positives", "queries with several documents"),
        ("positives_with_several_anchors", "documents with several queries"),
    ):
        if duplicates[key]:
            yield Highlight(count(duplicates[key]), title)
    if near["texts"]:
        meaning = f"In {count(near['groups'])} groups, the largest of {count(near['largest'])}; a group counts as one."
        groups = tuple(tuple(("", _short(text)) for text in group) for group in near["examples"][:MAX_EXAMPLES])
        yield Highlight(count(near["texts"]), "near-duplicate documents", meaning, groups)
    if skew["most_rows_of_one"] > 1:
        frequent = [text for text in skew["top"] if text["rows"] > 1][:MAX_EXAMPLES]
        examples = tuple(((f"{count(text['rows'])} rows", _short(text["text"])),) for text in frequent)
        yield Highlight(count(skew["most_rows_of_one"]), "rows of the most frequent document", "", examples)


def _contradicting(contradictions: dict[str, Any]) -> Iterator[Highlight]:
    if contradictions["negatives"]:
        meaning = "They are positives of the same query in other rows, and not used as negatives."
        examples = _pairs(contradictions["examples"])
        yield Highlight(count(contradictions["negatives"]), "contradictory negatives", meaning, examples)


def _odd(oddities: dict[str, Any]) -> Iterator[Highlight]:
    for name, oddity in oddities.items():
        if oddity["rows"]:
            title = ODDITIES.get(name, name.replace("_", " "))
            yield Highlight(count(oddity["rows"]), title, "", _pairs(oddity["examples"]))


def _batches(batches: dict[str, Any] | None) -> Iterator[Highlight]:
    """False negatives are named only if a random batch would have any."""
    if not batches:
        return
    for name, number in batches["batches_an_epoch"].items():
        yield Highlight(count(number), f"batches of {count(batches['batch_size'])} from {name}")
    at_random, as_planned = (
        plain(batches["false_negatives_in_a_batch"][key], 1) for key in ("at_random", "as_planned")
    )
    if at_random != plain(0, 1):
        meaning = f"A random batch would contain {at_random}. They are masked in the loss."
        yield Highlight(as_planned, "false negatives in a batch, before masking", meaning)
    if batches["largest_batch_without_duplicates"] < batches["batch_size"]:
        largest = count(batches["largest_batch_without_duplicates"])
        yield Highlight(largest, "is the largest batch size without duplicates in a batch")


def _truncated(lengths: dict[str, Any] | None) -> Iterator[Highlight]:
    for name, column in (lengths or {"columns": {}})["columns"].items():
        if column["truncated"]:
            meaning = f"Tokens: median {describe_lengths(column)}."
            yield Highlight(percent(column["truncated"]), f"of the {name} texts are truncated", meaning)


def describe_lengths(column: dict[str, float]) -> str:
    """Percentiles of token lengths, the median first."""
    p50, p90, p99, longest = (count(column[key]) for key in ("p50", "p90", "p99", "p100"))
    return f"{p50}, 90 % up to {p90}, 99 % up to {p99}, the longest {longest}"


def _pairs(examples: list[dict[str, str]]) -> tuple[Example, ...]:
    return tuple(tuple((name, _short(text)) for name, text in row.items() if text) for row in examples[:MAX_EXAMPLES])


def _short(text: str) -> str:
    return truncate(text, MAX_CHARACTERS)
