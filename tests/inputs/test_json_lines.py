"""JSON Lines: each key once, an object a line; other shapes are named."""

import json

import pytest

from mnrl_job.errors import DataError
from mnrl_job.inputs.rows import read_rows
from mnrl_job.records import BadRow

PAIR = {"anchor": "a", "positive": "b"}


@pytest.mark.parametrize(
    "line",
    [
        '{"anchor": "a", "positive": "b", "positive": "c"}',
        '{"anchor": "a", "positive": "b", "positive": "b"}',
        '{"anchor": "a", "positive": "b", "more": {"x": 1, "x": 2}}',
        '{"anchor": "a", "positive": "b", "\\u0061nchor": "c"}',
    ],
)
def test_a_key_that_stands_twice_makes_a_bad_row(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n{line}\n", encoding="utf-8")
    (_, first), (_, second) = read_rows(path)
    assert first == PAIR
    assert isinstance(second, BadRow)
    assert (second.where, second.reason) == (f"{path}:2", "repeated key")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "ndjson"])
@pytest.mark.parametrize("indent", [1, 2, "\t"])
def test_objects_over_several_lines_are_refused_as_such(tmp_path, suffix, indent):
    path = tmp_path / f"pairs.{suffix}"
    path.write_text("\n".join(json.dumps(PAIR, indent=indent) for _ in range(3)), encoding="utf-8")
    with pytest.raises(DataError, match=r":1: .*one object a line"):
        list(read_rows(path))


def test_an_array_is_refused_as_such_wherever_it_begins(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text("\n\n" + json.dumps([PAIR, PAIR], indent=2), encoding="utf-8")
    with pytest.raises(DataError, match=r":3: .*array.*one object a line"):
        list(read_rows(path))


def test_a_line_that_was_cut_off_is_a_bad_row_of_its_own(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{json.dumps(PAIR)}\n{{"anchor": "a", "posi\n{json.dumps(PAIR)}\n', encoding="utf-8")
    found = [row for _, row in read_rows(path)]
    assert [found[0], found[2]] == [PAIR, PAIR]
    assert found[1].reason == "malformed JSON"
