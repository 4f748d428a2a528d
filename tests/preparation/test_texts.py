"""What makes two texts the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnrl_job.preparation.texts import normalise, text_id, word_pairs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Reset  my\npassword ", "reset my password"),
        ("ﬁle №５", "file No5"),
        ("STRASSE", "straße"),
        ("e\u0301te\u0301", "été"),
        ("a\u00a0b", "a b"),
    ],
)
def test_unicode_forms_case_and_white_space_do_not_make_another_text(one, other):
    assert text_id(normalise(one)) == text_id(normalise(other))


def test_a_digit_an_accent_and_a_stop_do():
    assert len({text_id(normalise(text)) for text in ("resume 1", "resume 2", "résumé 1", "resume 1.")}) == 4


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


def test_word_pairs_are_each_word_with_the_next_whatever_stands_between():
    assert word_pairs("reset my, (pass-word)!") == ["reset my", "my pass", "pass word"]
    assert word_pairs("password") == ["password"]
    assert word_pairs("?! 🎉") == []


def test_scripts_without_blanks_are_paired_by_character():
    assert word_pairs("重置密码") == ["重 置", "置 密", "密 码"]
    assert word_pairs("リセット") == ["リ セ", "セ ッ", "ッ ト"]
    assert word_pairs("รหัส") != ["รหัส"]
    assert word_pairs("비밀번호 재설정") == ["비밀번호 재설정"], "Korean has blanks"
