"""Columns that judge a row, or say which part of the data it belongs to: they are never left out without a word."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnrl_job.config.row_filter import Condition, RowFilter, is_missing, number_of
from mnrl_job.data.columns import plain_name

# All of these are matched by a name's letters and digits alone, in lower case.
JUDGEMENT = re.compile(
    r"(?:gold|human|binary|pair|match|matching|relevanc[ey]|similarity|sim|sts|nli|cos|cosine|ce|crossencoder|reranker?|"
    r"teacher|llm|quality)*(?:labels?|scores?|ratings?|grades?)"
    r"|(?:cosine|cos|semantic|text)?(?:similarity|sim)|relevanc[ey]|judge?ments?"
    r"|(?:is|are|has)a?(?:relevant|duplicates?|dup|match|matching|positive|correct|similar|paraphrases?|same|"
    r"equivalent|related|gold|answer|good|valid|selected)"
)
PART = re.compile(r"(?:data|dataset|ml)?split|folds?|subsets?|partitions?")
# Flags of rows that are not to be trained on.
UNWANTED = re.compile(
    r"is(?:a)?(?:test|dev|val|validation|eval|evaluation|holdout|negative|wrong|incorrect|irrelevant|"
    r"impossible)"
)
# Names of other things, too: they judge where they hold numbers, or say a part where they hold its usual words.
VAGUE = re.compile(r"targets?|class|gold|match|matched|matches|relevant|duplicates?|dup|correct|similar|rel|paraphrase")
VAGUE_PART = re.compile(r"set|part|phase|stage|usage|dataset")

NO = frozenset({"no", "n", "f", "negative", "neg", "irrelevant", "not relevant", "not_relevant", "not duplicate"})
YES = ("yes", "y", "t", "positive", "pos", "relevant", "duplicate", "entailment", "match", "paraphrase", "correct")
TRAINING = ("train", "training", "trn")
HELD_BACK = frozenset(
    {"test", "testing", "dev", "develop", "val", "valid", "validation", "eval", "evaluation", "holdout"}
)
MOST_VALUES = 1000
SHOWN_VALUES = 4
UPPER_QUARTER = 0.75


@dataclass(slots=True)
class Values:
    """The values of one column in the rows that were taken: how often each, and the first row that differs."""

    name: str
    counts: Counter[float | str | None] = field(default_factory=Counter)
    first: dict[float | str | None, str] = field(default_factory=dict)
    others: int = 0

    def add(self, value: object, where: str) -> None:
        """Count a value. Lists, as of a teacher's scores for each document, judge no row."""
        if isinstance(value, list | dict):
            return
        plain = None if is_missing(value) else _plain(value)
        if plain not in self.counts:
            if len(self.counts) >= MOST_VALUES:
                self.others += 1
                return
            self.first[plain] = where
        self.counts[plain] += 1

    def merged(self, other: "Values") -> "Values":
        return Values(
            self.name,
            self.counts + other.counts,
            self.first | {value: where for value, where in other.first.items() if value not in self.first},
            self.others + other.others,
        )

    @property
    def present(self) -> list[float | str]:
        return [value for value in self.counts if value is not None]

    def shown(self) -> str:
        most = [f"{_shown(value)} in {count} rows" for value, count in self.counts.most_common(SHOWN_VALUES)]
        more = len(self.counts) - SHOWN_VALUES
        return ", ".join([*most, *([f"{more if not self.others else 'many'} others"] if more > 0 else [])])


@dataclass(frozen=True, slots=True)
class Qrel:
    """What is wrong with taking all rows, at which row it shows, and what to take instead, if that can be told."""

    name: str
    where: str
    told: str
    instead: Condition | None


def is_judging(name: str) -> bool:
    """Whether a column may judge its row, by its name."""
    plain = _letters(name)
    return any(pattern.fullmatch(plain) for pattern in (JUDGEMENT, PART, UNWANTED, VAGUE, VAGUE_PART))


def same_columns(tallies: Iterable[Mapping[str, Values]]) -> dict[str, Values]:
    """The values of each column over all sources, whatever the case of its name."""
    every: dict[str, Values] = {}
    for tally in tallies:
        for name, values in tally.items():
            key = plain_name(name)
            every[key] = every[key].merged(values) if key in every else values
    return every


def judge(values: Values) -> Qrel | None:
    """Why the rows with these values cannot all be taken without a word; None where they can."""
    present, plain = values.present, _letters(values.name)
    if not present or not _judges(plain, present):
        return None
    if len(values.counts) > 1:
        second = list(values.first.values())[1]
        return Qrel(values.name, second, f"varies between rows ({values.shown()})", _instead(values, plain))
    if not _is_unwanted(present[0], plain):
        return None
    told = f"is {_shown(present[0])} in all {values.counts.total()} rows"
    return Qrel(values.name, values.first[present[0]], told, None)


def suggested(judgements: Iterable[Qrel]) -> RowFilter:
    """A filter that takes what is judged as right; where no filter can, the one that takes all."""
    conditions = [one.instead for one in judgements]
    return RowFilter(tuple(one for one in conditions if one) if all(conditions) else ())


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _plain(value: object) -> float | str:
    number = number_of(value)
    return str(value).strip() if number is None else number


def _shown(value: float | str | None) -> str:
    if value is None:
        return "nothing"
    return repr(value)[:40] if isinstance(value, str) else f"{value:g}"


def _judges(plain: str, present: list[float | str]) -> bool:
    """Whether a column judges; of the vague names only those with values that do."""
    if any(pattern.fullmatch(plain) for pattern in (JUDGEMENT, PART, UNWANTED)):
        return True
    if VAGUE_PART.fullmatch(plain):
        words = {str(value).casefold() for value in present}
        return bool(words & HELD_BACK) and words <= HELD_BACK.union(TRAINING)
    return all(isinstance(value, float) or value.casefold() in NO.union(YES) for value in present)


def _is_unwanted(value: float | str, plain: str) -> bool:
    if PART.fullmatch(plain) or VAGUE_PART.fullmatch(plain):
        return isinstance(value, str) and value.casefold() in HELD_BACK
    if UNWANTED.fullmatch(plain):
        return isinstance(value, float) and value > 0
    return value <= 0 if isinstance(value, float) else value.casefold() in NO


def _instead(values: Values, plain: str) -> Condition | None:
    numbers = [value for value in values.present if isinstance(value, float) and math.isfinite(value)]
    words = [value for value in values.present if isinstance(value, str)]
    if UNWANTED.fullmatch(plain):
        return Condition(values.name, "=", 0.0)
    if words:
        wanted = (*TRAINING, *YES)
        best = min(words, key=lambda word: wanted.index(word.casefold()) if word.casefold() in wanted else len(wanted))
        return None if numbers else Condition(values.name, "=", best)
    if not numbers:
        return None
    if PART.fullmatch(plain) or (len(numbers) < 2 and numbers[0] <= 0):
        return Condition(values.name, "=", numbers[0])
    return Condition(values.name, ">=", _threshold(numbers))


def _threshold(numbers: list[float]) -> float:
    """From where on pairs match: of grades the first above 0, of a scale that has no 0 its upper part."""
    low, high = min(numbers), max(numbers)
    if low <= 0 and all(number.is_integer() for number in numbers):
        return min((number for number in numbers if number > 0), default=high)
    upper = low + UPPER_QUARTER * (high - low)
    return (
        float(math.ceil(upper)) if low.is_integer() and high.is_integer() and high - low >= 1 else float(f"{upper:.2g}")
    )
