"""Label columns: they rate a row or name its split. Training on all rows needs the user's consent if they vary."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from mnrl_job.config.row_filter import Condition, RowFilter, is_missing, number_of
from mnrl_job.data.columns import normalize_name

# The patterns match the letters and digits of a name, in lower case.
LABEL = re.compile(
    r"(?:gold|human|binary|pair|match|matching|relevanc[ey]|similarity|sim|sts|nli|cos|cosine|ce|crossencoder|reranker?|"
    r"teacher|llm|quality)*(?:labels?|scores?|ratings?|grades?)"
    r"|(?:cosine|cos|semantic|text)?(?:similarity|sim)|relevanc[ey]|judge?ments?"
    r"|(?:is|are|has)a?(?:relevant|duplicates?|dup|match|matching|positive|correct|similar|paraphrases?|same|"
    r"equivalent|related|gold|answer|good|valid|selected)"
)
SPLIT = re.compile(r"(?:data|dataset|ml)?split|folds?|subsets?|partitions?")
# Flags of rows not to train on.
EXCLUSION_FLAG = re.compile(
    r"is(?:a)?(?:test|dev|val|validation|eval|evaluation|holdout|negative|wrong|incorrect|irrelevant|"
    r"impossible)"
)
# Names with other meanings, too: labels only if the values are numbers or yes and no; splits only if they name splits.
AMBIGUOUS = re.compile(
    r"targets?|class|gold|match|matched|matches|relevant|duplicates?|dup|correct|similar|rel|paraphrase"
)
AMBIGUOUS_SPLIT = re.compile(r"set|part|phase|stage|usage|dataset")

NO = frozenset({"no", "n", "f", "negative", "neg", "irrelevant", "not relevant", "not_relevant", "not duplicate"})
YES = ("yes", "y", "t", "positive", "pos", "relevant", "duplicate", "entailment", "match", "paraphrase", "correct")
TRAINING_SPLITS = ("train", "training", "trn")
HELD_OUT_SPLITS = frozenset(
    {"test", "testing", "dev", "develop", "val", "valid", "validation", "eval", "evaluation", "holdout"}
)
MAX_VALUES = 1000
MAX_SHOWN_VALUES = 4
UPPER_QUARTER = 0.75


@dataclass(slots=True)
class ValueCounts:
    """How often each value of a column occurs, and where it occurs first. None stands for missing values.

    Only `MAX_VALUES` different values are counted by value; `others` counts the rows with any other value.
    """

    name: str
    counts: Counter[float | str | None] = field(default_factory=Counter)
    first: dict[float | str | None, str] = field(default_factory=dict)
    others: int = 0

    def add(self, value: object, where: str) -> None:
        """Count a value. Lists are ignored: a teacher's scores of each document are no label of the row."""
        if isinstance(value, list | dict):
            return
        key = None if is_missing(value) else _parse_value(value)
        if key not in self.counts:
            if len(self.counts) >= MAX_VALUES:
                self.others += 1
                return
            self.first[key] = where
        self.counts[key] += 1

    def merge(self, other: "ValueCounts") -> "ValueCounts":
        merged = self.counts + other.counts
        counts = Counter(dict(islice(merged.items(), MAX_VALUES)))
        first = other.first | self.first
        others = self.others + other.others + merged.total() - counts.total()
        return ValueCounts(self.name, counts, {value: first[value] for value in counts}, others)

    @property
    def present(self) -> list[float | str]:
        return [value for value in self.counts if value is not None]

    def summary(self) -> str:
        """The most frequent values, as in `1 in 20 rows, 0 in 3 rows`."""
        most_common = [
            f"{_format_value(value)} in {count} rows" for value, count in self.counts.most_common(MAX_SHOWN_VALUES)
        ]
        hidden = len(self.counts) - MAX_SHOWN_VALUES
        return ", ".join([*most_common, *([f"{hidden if not self.others else 'many'} others"] if hidden > 0 else [])])


@dataclass(frozen=True, slots=True)
class LabelProblem:
    """Why not all rows can be trained on without asking the user; `where` is the row that shows it.

    `suggestion` is a condition for `MNRL_ROW_FILTER`, if one can be inferred.
    """

    column: str
    where: str
    description: str
    suggestion: Condition | None


def may_be_label(name: str) -> bool:
    key = _letters(name)
    return any(pattern.fullmatch(key) for pattern in (LABEL, SPLIT, EXCLUSION_FLAG, AMBIGUOUS, AMBIGUOUS_SPLIT))


def merge_by_column(sources: Iterable[Mapping[str, ValueCounts]]) -> dict[str, ValueCounts]:
    """The values of each column over all sources, by normalized name."""
    merged: dict[str, ValueCounts] = {}
    for columns in sources:
        for name, values in columns.items():
            key = normalize_name(name)
            merged[key] = merged[key].merge(values) if key in merged else values
    return merged


def find_label_problem(values: ValueCounts) -> LabelProblem | None:
    """Why not all rows with these values should be trained on; None if the column is no label or they all should."""
    present, key = values.present, _letters(values.name)
    if not present or not _is_label(key, present):
        return None
    if len(values.counts) > 1:
        second = list(values.first.values())[1]
        return LabelProblem(
            values.name, second, f"varies between rows ({values.summary()})", _suggest_condition(values, key)
        )
    if not _is_excluding(present[0], key):
        return None
    description = f"is {_format_value(present[0])} in all {values.counts.total()} rows"
    return LabelProblem(values.name, values.first[present[0]], description, None)


def suggest_filter(problems: Iterable[LabelProblem]) -> RowFilter:
    """A filter that selects the rows labeled as right; the one that selects all rows if that cannot be inferred."""
    conditions = [problem.suggestion for problem in problems]
    return RowFilter(tuple(condition for condition in conditions if condition) if all(conditions) else ())


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _parse_value(value: object) -> float | str:
    number = number_of(value)
    return str(value).strip() if number is None else number


def _format_value(value: float | str | None) -> str:
    if value is None:
        return "nothing"
    return repr(value)[:40] if isinstance(value, str) else f"{value:g}"


def _is_label(key: str, present: list[float | str]) -> bool:
    """Whether a column holds labels; with an ambiguous name only if its values are typical of labels."""
    if any(pattern.fullmatch(key) for pattern in (LABEL, SPLIT, EXCLUSION_FLAG)):
        return True
    if AMBIGUOUS_SPLIT.fullmatch(key):
        words = {str(value).casefold() for value in present}
        return bool(words & HELD_OUT_SPLITS) and words <= HELD_OUT_SPLITS.union(TRAINING_SPLITS)
    return all(isinstance(value, float) or value.casefold() in NO.union(YES) for value in present)


def _is_excluding(value: float | str, key: str) -> bool:
    if SPLIT.fullmatch(key) or AMBIGUOUS_SPLIT.fullmatch(key):
        return isinstance(value, str) and value.casefold() in HELD_OUT_SPLITS
    if EXCLUSION_FLAG.fullmatch(key):
        return isinstance(value, float) and value > 0
    return value <= 0 if isinstance(value, float) else value.casefold() in NO


def _suggest_condition(values: ValueCounts, key: str) -> Condition | None:
    numbers = [value for value in values.present if isinstance(value, float) and math.isfinite(value)]
    words = [value for value in values.present if isinstance(value, str)]
    if EXCLUSION_FLAG.fullmatch(key):
        return Condition(values.name, "=", 0.0)
    if words:
        ranking = (*TRAINING_SPLITS, *YES)
        best = min(
            words, key=lambda word: ranking.index(word.casefold()) if word.casefold() in ranking else len(ranking)
        )
        return None if numbers else Condition(values.name, "=", best)
    if not numbers:
        return None
    if SPLIT.fullmatch(key) or (len(numbers) < 2 and numbers[0] <= 0):
        return Condition(values.name, "=", numbers[0])
    return Condition(values.name, ">=", _suggest_threshold(numbers))


def _suggest_threshold(numbers: list[float]) -> float:
    """The least number of a match: the first grade above 0, or the upper quarter of a scale without 0."""
    low, high = min(numbers), max(numbers)
    if low <= 0 and all(number.is_integer() for number in numbers):
        return min((number for number in numbers if number > 0), default=high)
    upper = low + UPPER_QUARTER * (high - low)
    return (
        float(math.ceil(upper)) if low.is_integer() and high.is_integer() and high - low >= 1 else float(f"{upper:.2g}")
    )
