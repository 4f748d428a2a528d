"""JSON Lines: one object per line without duplicate keys; other JSON is recognized and refused."""

import json

import pytest

from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError

ROWS = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(3)]


def read(tmp_path, text, name="p.jsonl"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return [row for _, row in read_rows(path)]


OVER_LINES = {
    "indented": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "indented by tabs, with Windows' line ends": "\r\n".join(
        json.dumps(row, indent="\t").replace("\n", "\r\n") for row in ROWS
    ),
    "after blank lines": "\n\n" + json.dumps(ROWS[0], indent=1),
    "broken after the first member": '{"anchor": "a",\n"positive": "b"}\n',
    "broken before a comma": '{"anchor": "a"\n, "positive": "b"}\n',
    "broken before a value": '{"anchor":\n"a"}\n',
    "an object around all": json.dumps({"data": ROWS}, indent=2),
}


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
@pytest.mark.parametrize("kind", OVER_LINES)
def test_json_objects_over_several_lines_are_refused_with_a_conversion(tmp_path, kind, name):
    with pytest.raises(DataError, match=rf"{name}:[13]: a JSON object.*\bjq\b"):
        read(tmp_path, OVER_LINES[kind], name)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_refused_with_a_conversion(tmp_path, indent):
    with pytest.raises(DataError, match=r"p\.json:1: a JSON array.*\bjq\b"):
        read(tmp_path, json.dumps(ROWS, indent=indent), "p.json")


@pytest.mark.parametrize("truncated", ['{"anchor": "a0", "posi', '{"anchor": "a0",', '{"anchor": "a0"', "{"])
def test_a_truncated_line_is_a_bad_row_wherever_it_is(tmp_path, truncated):
    complete = json.dumps(ROWS[1])
    for text, bad in (
        (f"{truncated}\n{complete}\n", 0),
        (f"{complete}\n{truncated}\n{complete}", 1),
        (f"{complete}\n{truncated}", 1),
        (truncated, 0),
    ):
        rows = read(tmp_path, text)
        assert rows[bad].reason == "malformed JSON"
        assert [row for row in rows if isinstance(row, dict)] == [ROWS[1]] * (len(rows) - 1)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"anchor": "a", "positive": "b", "positive": "c"}', "positive"),
        ('{"anchor": "a", "anchor": "a", "positive": "b"}', "anchor"),
        ('{"anchor": "a", "positive": "b", "\\u0070ositive": "c"}', "positive"),
        ('{"anchor": "a", "positive": "b", "meta": {"id": 1, "id": 2}}', "id"),
        ('{"anchor": "a", "pos": [{"text": "b", "text": "c"}]}', "text"),
    ],
)
def test_a_repeated_key_is_a_bad_row_that_names_it(tmp_path, line, key):
    rows = read(tmp_path, f"{json.dumps(ROWS[0])}\n{line}\n")
    assert rows == [ROWS[0], BadRow(f"{tmp_path / 'p.jsonl'}:2", "duplicate key", repr(key))]


def test_each_part_of_a_concatenated_file_may_begin_with_a_byte_order_mark(tmp_path):
    assert read(tmp_path, "".join(f"\ufeff{json.dumps(row)}\n" for row in ROWS)) == ROWS
