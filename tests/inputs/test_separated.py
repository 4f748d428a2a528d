"""Separated values as other programs write them: not quoted, oddly quoted, joined, or by another separator."""

import csv
import gzip
import io
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.errors import DataError
from mnrl_job.inputs.rows import read_rows
from mnrl_job.records import BadRow

PAIRS = [(f"how to mend part {i}", f"take the tool {i}, and turn it") for i in range(40)]


def read(path: Path) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for _, row in read_rows(path) if not isinstance(row, BadRow)]


def write(path: Path, rows, separator=",", header=("anchor", "positive")) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def plain(rows, separator, header="anchor{}positive") -> str:
    return header.format(separator) + "\n" + "".join(f"{a}{separator}{p}\n" for a, p in rows)


def marked(first: str, second: str, apart: int):
    rows = [list(pair) for pair in PAIRS]
    rows[10][1] = first.format(rows[10][1])
    rows[10 + apart][1] = second.format(rows[10 + apart][1])
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("apart", [2, 9, 29])
@pytest.mark.parametrize("marks", [('"{}', '{}"'), ('"{}', '"{}'), ('{}"', '"{}'), ('say "{}"', '5" {}')])
def test_quotation_marks_of_a_file_that_is_not_quoted_swallow_no_row(tmp_path, marks, apart):
    rows = marked(*marks, apart)
    (tmp_path / "pairs.tsv").write_text(plain(rows, "\t"), encoding="utf-8")
    try:
        assert read(tmp_path / "pairs.tsv") == rows
    except DataError as refused:
        assert ".tsv:" in str(refused)  # noqa: PT017


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_two_marks_in_neighbouring_rows_are_refused_or_kept_by_line(tmp_path, suffix):
    separator = {"csv": ",", "tsv": "\t"}[suffix]
    rows = [("a", "b"), ("c", '"d'), ("e", 'f"'), ("g", "h")]
    path = tmp_path / f"pairs.{suffix}"
    path.write_text(plain(rows, separator), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{suffix}:3: "):
        read(path)


def test_rows_between_two_marks_of_a_csv_are_refused_by_the_first_line(tmp_path):
    rows = [(a, p.replace(",", "")) for a, p in marked('"{}', '{}"', 12)]
    (tmp_path / "pairs.csv").write_text(plain(rows, ","), encoding="utf-8")
    with pytest.raises(DataError, match=r"csv:12: "):
        read(tmp_path / "pairs.csv")


# Texts as people write them: several lines, commas before a blank, marks within.
WORDS = st.text("abcdefgh ", min_size=1, max_size=8).filter(str.strip)
PROSE = st.lists(WORDS, min_size=1, max_size=4).flatmap(
    lambda words: st.sampled_from([" ", ", ", "\n", ' "so" ']).map(lambda glue: glue.join(words))
)


@pytest.mark.parametrize(
    ("suffix", "separator"), [("csv", ","), ("tsv", "\t"), ("csv", ";"), ("csv", "|"), ("tsv", ";")]
)
@given(rows=st.lists(st.tuples(PROSE, PROSE), min_size=1, max_size=8))
def test_prose_that_spreadsheets_quoted_is_read_back(named, rows):
    suffix, separator = named.split(" ")
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / f"pairs.{suffix}", rows, separator)
        assert [tuple(text.strip() for text in row) for row in read(path)] == [
            tuple(text.strip() for text in row) for row in rows
        ]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_told_by_the_header_whatever_the_name_says(tmp_path, suffix, separator):
    rows = [(a, p) for a, p in PAIRS]
    path = write(tmp_path / f"pairs.{suffix.removesuffix('.gz')}", rows, separator)
    if suffix.endswith(".gz"):
        packed = tmp_path / f"pairs.{suffix}"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert read(path) == rows


def test_semicolons_in_texts_separate_nothing(tmp_path):
    rows = [(f"a; {i}", f"b; c; {i}") for i in range(9)]
    assert read(write(tmp_path / "pairs.csv", rows)) == rows


def test_the_line_that_excel_writes_for_the_separator_is_no_header(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("sep=;\r\nanchor;positive\r\na;b, c\r\n", encoding="utf-8-sig", newline="")
    assert list(read_rows(path)) == [(3, {"anchor": "a", "positive": "b, c"})]


def test_a_blank_before_a_quotation_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('anchor, positive\na, "b, c"\nd, "e"\nf, g "h" i\n', encoding="utf-8")
    assert [tuple(map(str.strip, row)) for row in read(path)] == [("a", "b, c"), ("d", "e"), ("f", 'g "h" i')]


@pytest.mark.parametrize(
    "again", ["anchor,positive", "Anchor, Positive ", '"anchor","positive"', "\ufeffanchor,positive"]
)
def test_the_header_of_a_joined_file_is_no_row(tmp_path, again):
    path = tmp_path / "pairs.csv"
    path.write_text(f"anchor,positive\na,b\n{again}\nc,d\n", encoding="utf-8")
    rows = dict(read_rows(path))
    assert [rows[2], rows[4]] == [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    assert rows[3].where.endswith("pairs.csv:3")
    assert rows[3].reason == "repeated header"


def test_a_second_header_with_the_columns_in_another_order_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("anchor,positive\na,b\npositive,anchor\nd,c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"csv:3: .*another order"):
        read(path)


def test_many_rows_with_marks_are_read_in_order(tmp_path):
    random.seed(3)
    rows = [(f"question {i}", random.choice(['say "no"', "a, b", "two\nlines", "plain"])) for i in range(500)]
    assert read(write(tmp_path / "pairs.csv", rows)) == rows
