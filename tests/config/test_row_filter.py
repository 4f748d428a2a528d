"""`MNRL_ROW_FILTER`: its syntax, and which values satisfy a condition."""

from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.config.reader import read_settings
from mnrl_job.config.row_filter import OPERATORS, Condition, RowFilter, parse_row_filter
from mnrl_job.config.settings import Settings
from mnrl_job.errors import SettingsError
from mnrl_job.launch.run_identity import run_identity

NEEDED = {"MNRL_TRAIN_DATA": "pairs.jsonl", "MNRL_OUTPUT": "out"}


def filter_of(text):
    return read_settings("train", {}, NEEDED | {"MNRL_ROW_FILTER": text}, {})[0].row_filter


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("label>=1", [("label", ">=", 1.0)]),
        (" label = 1 ", [("label", "=", 1.0)]),
        ("label==1", [("label", "=", 1.0)]),
        ("score > .5", [("score", ">", 0.5)]),
        ("score<=-1e-3", [("score", "<=", -0.001)]),
        ("is_duplicate=true", [("is_duplicate", "=", 1.0)]),
        ("is_test!=True", [("is_test", "!=", 1.0)]),
        ("split=train", [("split", "=", "train")]),
        ("split='train'", [("split", "=", "train")]),
        ('"my split" = "the train part"', [("my split", "=", "the train part")]),
        ("fold='3'", [("fold", "=", "3")]),
        ("split=train and label>=1", [("split", "=", "train"), ("label", ">=", 1.0)]),
        ("a=1 AND b=2  and c<3", [("a", "=", 1.0), ("b", "=", 2.0), ("c", "<", 3.0)]),
        ("lang=pt-BR", [("lang", "=", "pt-BR")]),
        ("größe>=2", [("größe", ">=", 2.0)]),
        ("band='rock and roll'", [("band", "=", "rock and roll")]),
        ("all='x'", [("all", "=", "x")]),
    ],
)
def test_conditions_are_parsed(text, conditions):
    assert filter_of(text) == RowFilter(tuple(Condition(*condition) for condition in conditions))


@pytest.mark.parametrize("text", ["all", "ALL", " all "])
def test_all_keeps_every_row_and_differs_from_no_filter(text):
    assert filter_of(text) == RowFilter(())
    assert filter_of("") is None


@pytest.mark.parametrize(
    "text",
    [
        "label",
        "label>",
        ">=1",
        "label=>1",
        "label=1 or label=2",
        "label=1, split=train",
        "label=1&split=train",
        "label 1",
        "split=train set",
        "not label=1",
        "label in (1,2)",
        "(label=1)",
        "label=1 and",
        "and label=1",
        "split='train",
        "all label=1",
    ],
)
def test_an_invalid_condition_is_a_settings_error(text):
    with pytest.raises(SettingsError) as caught:
        filter_of(text)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"MNRL_ROW_FILTER={text!r} is invalid")
    assert "label>=1" in line


@given(
    st.lists(
        st.builds(
            Condition,
            st.from_regex(r"[a-z_]{1,5}( [a-z]{1,3})?", fullmatch=True),
            st.sampled_from(sorted(OPERATORS)),
            st.floats(allow_nan=False, allow_infinity=False)
            | st.from_regex(r"[a-z0-9.]{1,5}( [a-z]{1,3})?", fullmatch=True),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_text_and_the_json_of_a_filter_parse_to_the_same_filter(conditions):
    wanted = RowFilter(tuple(conditions))
    assert parse_row_filter(str(wanted)) == wanted
    settings = Settings(row_filter=wanted)
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_run_with_another_filter_is_another_run():
    def settings_hash(row_filter):
        return run_identity(Settings(row_filter=row_filter), {}).settings_hash

    hashes = {settings_hash(row_filter) for row_filter in (None, "all", "label>=1", "label>=2", "label>1")}
    assert len(hashes) == 5
    assert settings_hash("label==1") == settings_hash(" label = 1.0")


@pytest.mark.parametrize(
    ("condition", "values", "others"),
    [
        (
            "x>=1",
            [1, 2.5, "1", " 1.0 ", True, "true", Decimal("1.5"), 10**400],
            [0, 0.99, "0", False, "False", -(10**400)],
        ),
        ("x=1", [1, 1.0, "1.0", True, Decimal(1)], [0, 2, "0", False]),
        ("x!=0", [1, "2", True], [0, "0.0", False]),
        ("x=true", [True, 1, "1", "TRUE"], [False, 0, "false"]),
        ("x=train", ["train", " train "], ["test", "Train", "training"]),
        ("x!=test", ["train"], ["test"]),
        (
            "x>='2024-02-01'",
            ["2024-02-01", date(2025, 1, 1), datetime(2024, 2, 1, 5)],
            ["2024-01-31", date(2023, 1, 1)],
        ),
    ],
)
def test_numbers_are_compared_as_numbers_and_texts_as_texts(condition, values, others):
    (parsed,) = parse_row_filter(condition).conditions
    assert [value for value in values if not parsed.holds(value)] == []
    assert [value for value in others if parsed.holds(value)] == []


@pytest.mark.parametrize("condition", ["x>=1", "x!=1", "x=train", "x!=train"])
@pytest.mark.parametrize("missing", [None, float("nan"), "", "  ", "NaN"])
def test_a_missing_value_satisfies_no_condition(condition, missing):
    assert not parse_row_filter(condition).conditions[0].holds(missing)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("x>=1", "good"),
        ("x=1", "1,5"),
        ("x=1", [1]),
        ("x=1", {"a": 1}),
        ("x=train", 3),
        ("x=train", True),
        ("x=a", ["a"]),
        ("x>=1", "1_000"),
        ("x>=1", "inf"),
    ],
)
def test_a_value_of_another_type_cannot_be_compared(condition, value):
    with pytest.raises(TypeError):
        parse_row_filter(condition).conditions[0].holds(value)
