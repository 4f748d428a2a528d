"""Texts of invisible characters only, and texts with some of these."""

import sys
import unicodedata

import pytest

from mnrl_job.data.blanks import is_blank

# From Unicode's DerivedCoreProperties.txt: Default_Ignorable_Code_Point, the first and last of each range.
IGNORABLE = (
    "00AD 034F 061C 115F 1160 17B4 17B5 180B 180D 180E 180F 200B 200F 202A 202E 2060 2064 2065 2066 206F 3164 FE00 "
    "FE0F FEFF FFA0 FFF0 FFF8 1BCA0 1BCA3 1D173 1D17A E0000 E0001 E0020 E007F E0080 E00FF E0100 E01EF E01F0 E0FFF"
)


def test_whitespace_control_and_format_characters_are_blank():
    unseen = {"Cc", "Cf", "Zs", "Zl", "Zp"}
    characters = [char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) in unseen]
    assert not [hex(ord(char)) for char in characters if not is_blank(char)]
    assert is_blank("".join(characters))


@pytest.mark.parametrize("code", [*IGNORABLE.split(), "2800", "1D159"])
def test_default_ignorable_characters_are_blank(code):
    assert is_blank(chr(int(code, 16)))
    assert is_blank(f" \ufeff{chr(int(code, 16))}\n")


def test_an_empty_text_is_blank():
    assert is_blank("")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        ".",
        "🚲",
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "می\u200cخواهم",
        "क\u200dष",
        "\u200bword\u200b",
        "\u3164한",
        "\u0301",
        "\ufffd",
    ],
)
def test_a_visible_character_makes_a_text_whatever_surrounds_it(text):
    assert not is_blank(text)


def test_letters_digits_and_symbols_are_not_blank():
    fillers = {0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800, 0x1D159}
    seen = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code))[0] in "LNPS" and code not in fillers and is_blank(chr(code))
    ]
    assert not seen
