"""Highlights of the audit: what is remarkable about the training pairs, each with examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mnrl_job.report.page.formatting import count, cut, plain, share

EXAMPLES = 5
CHARACTERS = 200

Example = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Highlight:
    """Something found: how much of it, what it means, and examples as texts with what each is."""

    number: str
    title: str
    meaning: str
    examples: tuple[Example, ...] = ()


def highlights(audit: dict[str, Any]) -> tuple[Highlight, ...]:
    """What of `audit.json` a person would want to see; nothing that was not found."""
    return (
        *_rejected(audit),
        *_eval_sets(audit.get("eval", {})),
        *_leaked(audit["leakage"]),
        *_repeated(audit),
        *_contradicting(audit["contradictions"]),
        *_odd(audit["oddities"]),
        *_batched(audit.get("batches")),
        *_truncated(audit.get("token_lengths")),
    )


def _rejected(audit: dict[str, Any]) -> Iterator[Highlight]:
    total = sum(audit["rejected"].values())
    if total:
        reasons = ", ".join(f"{reason} {count(number)}" for reason, number in audit["rejected"].items())
        yield Highlight(count(total), "rows rejected", f"By reason: {reasons}.", _named(audit))


def _eval_sets(eval_sets: dict[str, Any]) -> Iterator[Highlight]:
    """What is left out of eval sets: rows that cannot be used, and queries out of their own rankings."""
    for name, one in eval_sets.items():
        if own := one["own_documents"]:
            meaning = "They stand there under their own ids; none is ranked among its own answers."
            yield Highlight(count(own), f"queries of {name} in its corpus", meaning)
        if total := sum(one["rejected"].values()):
            reasons = ", ".join(f"{reason} {count(number)}" for reason, number in one["rejected"].items())
            yield Highlight(count(total), f"rows of {name} rejected", f"By reason: {reasons}.", _named(one))


def _named(part: dict[str, Any]) -> tuple[Example, ...]:
    """The first rejected rows."""
    rows = part["rejected_rows"][:EXAMPLES]
    return tuple(((row["where"], _cut(f"{row['reason']}: {row['detail']}")),) for row in rows)


def _leaked(leakage: dict[str, Any]) -> Iterator[Highlight]:
    if leakage["rows"]:
        done = {"remove": "They were removed.", "keep": "They were kept: the scores are too good."}
        meaning = f"These pairs also occur in an eval set. {done.get(leakage['policy'], '')}"
        yield Highlight(count(leakage["rows"]), "pairs leaked", meaning, _rows(leakage["examples"]))


def _repeated(audit: dict[str, Any]) -> Iterator[Highlight]:
    duplicates, skew, near = audit["duplicates"], audit["skew"], audit["near_duplicates"]
    if duplicates["repeated_rows"]:
        yield Highlight(count(duplicates["repeated_rows"]), "rows repeated", "They repeat another row word for word.")
    if near["texts"]:
        meaning = (
            f"In {count(near['groups'])} groups, the largest of {count(near['largest'])}; in a batch they count as one."
        )
        groups = tuple(tuple(("", _cut(text)) for text in group) for group in near["examples"])
        yield Highlight(count(near["texts"]), "documents nearly the same", meaning, groups)
    if skew["most_rows_of_one"] > 1:
        often = [one for one in skew["top"] if one["rows"] > 1][:EXAMPLES]
        shown = tuple(((f"{count(one['rows'])} rows", _cut(one["text"])),) for one in often)
        yield Highlight(count(skew["most_rows_of_one"]), "rows of the most frequent document", "", shown)


def _contradicting(contradictions: dict[str, Any]) -> Iterator[Highlight]:
    if contradictions["negatives"]:
        meaning = "Elsewhere they are positives of the same query; they were not used as negatives."
        examples = _rows(contradictions["examples"])
        yield Highlight(count(contradictions["negatives"]), "negatives that contradict", meaning, examples)


def _odd(oddities: dict[str, Any]) -> Iterator[Highlight]:
    names = {
        "mojibake": "pairs decoded wrongly",
        "html": "pairs with markup",
        "one_word_positives": "documents of one word",
        "anchor_equals_positive": "queries that equal their document",
    }
    for name, one in oddities.items():
        if one["rows"]:
            yield Highlight(count(one["rows"]), names.get(name, name.replace("_", " ")), "", _rows(one["examples"]))


def _batched(batches: dict[str, Any] | None) -> Iterator[Highlight]:
    if batches:
        wrong = batches["false_negatives_in_a_batch"]
        meaning = f"A batch drawn at random would hold {plain(wrong['at_random'], 1)}. Batches are {batches['mode']}: "
        number = plain(wrong["as_planned"], 1)
        yield Highlight(number, "false negatives expected in a batch", f"{meaning}{batches['why']}.")


def _truncated(lengths: dict[str, Any] | None) -> Iterator[Highlight]:
    for name, one in (lengths or {"columns": {}})["columns"].items():
        if one["truncated"]:
            meaning = (
                f"Half have up to {count(one['p50'])} tokens, 99 % up to {count(one['p99'])}; the rest is not read."
            )
            yield Highlight(share(one["truncated"]), f"of the {name} texts are cut", meaning)


def _rows(examples: list[dict[str, str]]) -> tuple[Example, ...]:
    return tuple(tuple((name, _cut(text)) for name, text in row.items() if text) for row in examples[:EXAMPLES])


def _cut(text: str) -> str:
    return cut(text, CHARACTERS)
