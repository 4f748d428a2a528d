"""Normalization and word pairs decide which texts are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.deduplication.text_similarity import normalize, text_id, word_pairs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Reset  my\npassword ", "reset my password"),
        ("ﬁle №５", "file No5"),
        ("STRASSE", "straße"),
        ("e\u0301te\u0301", "été"),
        ("a\u00a0b", "a b"),
        ("ΤΑΞΊΔΙ ΠΡΟΫ́ΠΗΡΧΕ", "ταξίδι προΰπηρχε"),
        ("ＡＢＣ　１", "abc 1"),
    ],
)
def test_unicode_forms_case_and_whitespace_do_not_make_another_text(one, other):
    assert text_id(normalize(one)) == text_id(normalize(other))


def test_a_digit_an_accent_or_a_full_stop_makes_another_text():
    assert len({text_id(normalize(text)) for text in ("resume 1", "resume 2", "résumé 1", "resume 1.")}) == 4


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


def test_word_pairs_are_each_word_with_the_next_whatever_stands_between():
    assert word_pairs("reset my, (pass-word)!") == ["reset my", "my pass", "pass word"]
    assert word_pairs("password") == ["password"]
    assert word_pairs("?! (–)") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sort in C++", "sort in C#"),
        ("sort in C", "sort in C++"),
        ("a + b", "a < b"),
        ("from 5 €", "from 5 £"),
        ("👍", "👎"),
    ],
)
def test_symbols_are_words_of_their_own(one, other):
    assert word_pairs(normalize(one)) != word_pairs(normalize(other))


@pytest.mark.parametrize("words", ["लड़का आया था", "كِتَابٌ جَدِيدٌ هُنَا", "தமிழ் மொழி பேசு", "ọ̀rọ̀ àti ẹ́", "שָׁלוֹם לְכֻלָּם"])
def test_combining_marks_do_not_split_words(words):
    """Vowel signs and accents without a composed letter; without them different words would be equal."""
    one, *others = words.split()
    assert word_pairs(normalize(words))[0] == normalize(f"{one} {others[0]}")
    assert len(word_pairs(normalize(words))) == len(others)


def test_a_variation_selector_alone_is_no_word():
    assert word_pairs(normalize("❤\ufe0f ‼\ufe0f")) == ["❤"]


@given(st.text(st.characters(codec="ascii")))
def test_ascii_texts_have_the_same_words_with_both_patterns(text):
    """ASCII texts are split by a faster pattern."""
    assert word_pairs(f"a b {text}") == word_pairs(f"a b {text} é")[:-1]


def test_scripts_without_blanks_are_paired_by_character():
    assert word_pairs("重置密码") == ["重 置", "置 密", "密 码"]
    assert word_pairs("リセット") == ["リ セ", "セ ッ", "ッ ト"]
    assert word_pairs("รหัส") != ["รหัส"]
    assert word_pairs("비밀번호 재설정") == ["비밀번호 재설정"], "Korean has blanks"
