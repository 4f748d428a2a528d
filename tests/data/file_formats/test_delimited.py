"""CSV and TSV: no row is lost or invented, whichever program wrote the file."""

import csv
import gzip
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.file_formats.rows import read_rows
from mnrl_job.errors import DataError

ROWS = [(f"question {i}", f"answer {i} of many") for i in range(12)]


def plain(rows, separator="\t", header=("query", "answer")):
    """Unquoted, as `cut` and SQL clients write them."""
    return "".join(separator.join(row) + "\n" for row in (header, *rows))


def quoted(rows, separator=",", header=("query", "answer"), **options):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, **options).writerows([header, *rows])
    return text.getvalue()


def changed(changes):
    rows = [list(row) for row in ROWS]
    for (row, column), text in changes.items():
        rows[row][column] = text
    return [tuple(row) for row in rows]


def read(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [row if isinstance(row, BadRow) else tuple(row.values()) for _, row in read_rows(path)]


def refused(tmp_path, name, text):
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, text)
    return str(caught.value)


MARKS = {
    "one opens a text and a later one ends a text": {(2, 1): '"answer 2', (8, 1): 'answer 8"'},
    "one opens an anchor and a later one ends an answer": {(2, 0): '"question', (8, 1): 'answer 8"'},
    "one opens an answer and a later one ends an anchor": {(2, 1): '"answer', (8, 0): 'question 8"'},
    "the first words are quoted": {(3, 0): '"four" is a word', (5, 1): '"six" is another'},
    "one is never closed": {(4, 1): '"answer'},
    "one stands alone at the end": {(4, 1): 'a screen of 5"'},
    "a text is quoted, another one is not closed": {(1, 0): '"to be or not to be"', (4, 1): '"answer'},
    "many": {(i, 1): f'"answer {i}' if i % 2 else f'answer {i}"' for i in range(12)},
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", MARKS)
def test_quotation_marks_in_an_unquoted_tsv_are_part_of_its_texts(tmp_path, kind, pack):
    rows = changed(MARKS[kind])
    assert read(tmp_path, "p.tsv", pack(plain(rows).encode())) == rows
    assert read(tmp_path, "p.tsv", pack(plain(rows).replace("\n", "\r\n").encode())) == rows


TRICKY = {
    (0, 0): "two\nlines",
    (1, 1): "a\ttab",
    (2, 1): 'he said "four"',
    (3, 0): '"five" he said',
    (4, 1): '"six"',
    (5, 1): "a tab\tand\na line break",
    (6, 1): "a\nb\tc",
    (7, 1): "def f(x):\n\treturn x\n\n\treturn 0",
    (8, 1): "Dear all,\nhello, you\nbye, you",
    (9, 1): "milk; eggs, bread | salt",
    (10, 0): '"',
    (11, 1): '\n"\n',
}


@pytest.mark.parametrize(
    ("quoting", "ending"),  # with "\r" alone Python's writer leaves "\n" without marks
    [(csv.QUOTE_MINIMAL, "\n"), (csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r")],
)
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_files_of_spreadsheets_are_read_back(tmp_path, quoting, separator, ending):
    rows = changed(TRICKY)
    text = quoted(rows, separator, quoting=quoting, lineterminator=ending)
    for name in ("p.csv", "p.tsv"):
        assert read(tmp_path, name, text) == rows


# Texts as people write them: several lines, commas before a blank, marks within.
WORDS = st.text("abcdefgh ", min_size=1, max_size=8).filter(str.strip)
PROSE = st.lists(WORDS, min_size=1, max_size=4).flatmap(
    lambda words: st.sampled_from([" ", ", ", "\n", ' "so" ']).map(lambda glue: glue.join(words))
)


@pytest.mark.parametrize(("name", "separator"), [("p.csv", ","), ("p.tsv", "\t"), ("p.csv", ";"), ("p.tsv", "|")])
@given(rows=st.lists(st.tuples(PROSE, PROSE), min_size=1, max_size=8))
def test_quoted_prose_of_spreadsheets_is_read_back(name, separator, rows):
    with TemporaryDirectory() as folder:
        assert read(Path(folder), name, quoted(rows, separator)) == rows


@pytest.mark.parametrize("changes", [{place: text} for place, text in TRICKY.items() if place != (6, 1)])
@pytest.mark.parametrize(("name", "separator"), [("p.tsv", "\t"), ("p.csv", ",")])
def test_one_text_that_needs_its_quotation_marks_makes_a_tsv_quoted(tmp_path, name, separator, changes):
    assert read(tmp_path, name, quoted(changed(changes), separator)) == changed(changes)


def test_quotation_marks_around_texts_are_removed_unless_the_file_is_unquoted(tmp_path):
    rows = changed({(2, 1): '"answer"', (3, 1): '"another"'})
    assert read(tmp_path, "p.tsv", plain(rows))[2:4] == [("question 2", "answer"), ("question 3", "another")]


AMBIGUOUS = {
    "two rows, or a text of two lines": ("p.tsv", plain(changed({(2, 1): '"answer', (3, 1): 'answer"'})), 4),
    "a short row, too": ("p.tsv", plain([*changed({(2, 1): '"answer', (8, 1): 'answer"'}), ("short",)]), 4),
    "a short row between": ("p.tsv", plain([*changed({(2, 1): '"answer'}), ("short",), ("a", 'b"')]), 4),
    "doubled marks, too": ("p.tsv", plain(changed({(2, 1): '"four" is', (8, 1): '"a ""b"" c"'})), 4),
    "a quoted header": ("p.tsv", plain(changed({(2, 1): '"four" is'}), header=('"query"', '"answer"')), 4),
    "commas": ("p.csv", plain(changed({(2, 1): '"answer', (8, 1): 'answer 8"'}), ","), 4),
    "commas, two rows": ("p.csv", plain(changed({(2, 1): '"answer', (3, 1): 'answer 8"'}), ","), 4),
    "semicolons": ("p.csv", plain(changed({(2, 1): '"answer', (8, 1): 'answer 8"'}), ";"), 4),
    "text after the mark": ("p.csv", plain(changed({(2, 1): '"four" is a word'}), ","), 4),
    "never closed": ("p.csv", plain(changed({(2, 1): '"four is a word'}), ","), 4),
    "closed before a blank": ("p.csv", plain(changed({(2, 0): '"four" '}), ","), 4),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_ambiguous_quotation_marks_are_refused_with_the_line(tmp_path, kind):
    name, text, line = AMBIGUOUS[kind]
    assert f"{name}:{line}: " in refused(tmp_path, name, text)


BLANKS = {
    "after the separator": 'query, answer\nq1, "a1"\nq2, "a2, or b2"\n q3,  "say ""hi"""\nq4, a4\n',
    "everywhere": '"query", "answer"\n "q1", "a1"\n"q2", "a2, or b2"\n"q3",   "say ""hi"""\nq4, a4\n',
}


@pytest.mark.parametrize("kind", BLANKS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spaces_before_a_quoted_text_are_ignored(tmp_path, kind, separator):
    text = BLANKS[kind].replace(", or", "\0").replace(",", separator).replace("\0", f"{separator} or")
    rows = [tuple(map(str.strip, row)) for row in read(tmp_path, "p.csv", text)]
    assert rows == [("q1", "a1"), ("q2", f"a2{separator} or b2"), ("q3", 'say "hi"'), ("q4", "a4")]


def test_quotation_marks_after_a_space_that_do_not_enclose_a_text_are_part_of_it(tmp_path):
    text = 'query,answer\nq1, "four" is a word\nq2,"he said, ""five"", or six"\n'
    assert read(tmp_path, "p.csv", text) == [("q1", ' "four" is a word'), ("q2", 'he said, "five", or six')]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("header", ["query,answer", '"query","answer"', "Query, answer"])
@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_the_repeated_header_of_a_concatenated_file_is_a_bad_row(tmp_path, mark, header, pack):
    parts = [f"{mark}{header}\nq{i},a{i}\n" for i in range(3)]
    rows = read(tmp_path, "p.csv", b"".join(map(pack, parts)))
    assert [row for row in rows if isinstance(row, tuple)] == [("q0", "a0"), ("q1", "a1"), ("q2", "a2")]
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [(row.where.rpartition(":")[2], row.reason) for row in bad] == [
        ("3", "repeated header"),
        ("5", "repeated header"),
    ]


def test_a_later_header_with_another_order_of_columns_is_refused(tmp_path):
    assert "p.csv:3: a second header" in refused(tmp_path, "p.csv", "query,answer\nq,a\nanswer,query\na,q\n")


def test_a_row_that_holds_the_name_of_a_column_is_a_row(tmp_path):
    rows = [("query", "what one asks"), ("what one gives", "answer"), ("query", "query")]
    assert read(tmp_path, "p.csv", plain(rows, ",")) == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("separator", [";", ",", "|", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_separator_is_detected_from_the_header(tmp_path, suffix, separator, quoting):
    rows = [("one; two, three | four\tfive", "six, seven; eight"), ("nine", "ten")]
    assert read(tmp_path, f"p.{suffix}", quoted(rows, separator, quoting=quoting)) == rows


def test_a_separator_in_a_text_or_name_is_none(tmp_path):
    rows = [("a; b; c", "d"), ("e", "f; g")]
    assert read(tmp_path, "p.csv", plain(rows, ",", ("query; all of it", "answer"))) == rows


@pytest.mark.parametrize(("name", "separator", "text"), [("p.tsv", "\t", "a\nb\tc"), ("p.csv", ",", "a\nb,c\nd,e")])
def test_a_multi_line_text_that_looks_like_rows_is_read_if_the_file_is_certainly_quoted(
    tmp_path, name, separator, text
):
    rows = changed({(0, 1): text, (9, 1): 'he said "ten"'})
    assert read(tmp_path, name, quoted(rows, separator)) == rows


def test_an_opening_quotation_mark_is_found_across_chunk_boundaries(tmp_path, monkeypatch):
    rows = changed(MARKS["one opens a text and a later one ends a text"])
    for size in range(1, 60):
        monkeypatch.setattr("mnrl_job.data.file_formats.dialect.CHUNK", size)
        assert read(tmp_path, "p.tsv", plain(rows)) == rows


def test_spaces_around_unquoted_texts_are_kept(tmp_path):
    assert read(tmp_path, "p.csv", 'query,answer\n b," ""a"""\n') == [(" b", ' "a"')]


@pytest.mark.parametrize("line", ["sep=;\n", '"sep=;"\r\n'])
def test_the_line_that_excel_writes_before_the_header_names_the_separator(tmp_path, line):
    path = tmp_path / "p.csv"
    path.write_text(line + "query;answer\nq;a\nq;a;b\n", encoding="utf-8-sig", newline="")
    parsed = list(read_rows(path))
    assert parsed[0] == (3, {"query": "q", "answer": "a"})
    assert parsed[1][1] == BadRow(f"{path}:4", "wrong number of fields", "3 fields, the header has 2")
    rows = [(*row, "more") for row in changed(MARKS["many"])]
    text = plain(rows, header=("query", "answer", "other"))
    assert read(tmp_path, "p.csv", f"sep=\t\n{text}") == rows
