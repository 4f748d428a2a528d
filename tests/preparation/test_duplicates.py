"""What counts as the same text."""

import numpy as np
import pytest

from mnrl_job.preparation.duplicates import normalise, write_text_ids
from mnrl_job.records import Pairs
from mnrl_job.runtime.tables import write_columns


@pytest.mark.parametrize(
    "other",
    [
        "reset  the\tpassword ",
        "RESET the Password",
        "reset the pass\u200bword".replace("\u200b", ""),
        "ｒｅｓｅｔ the password",
    ],
)
def test_case_blanks_and_unicode_forms_do_not_make_another_text(other):
    assert normalise(other) == normalise("reset the password")


def test_equal_texts_get_equal_numbers_in_any_column(tmp_path):
    path = tmp_path / "pairs.arrow"
    write_columns(path, anchor=["a", "A ", "c"], positive=["b", "d", "a"])
    ids = write_text_ids(Pairs(path, ("anchor", "positive"), 3, 3, {}, (), ()), tmp_path / "ids.npy")
    assert ids.shape == (3, 2)
    assert ids[0, 0] == ids[1, 0] == ids[2, 1]
    assert len(np.unique(ids)) == 4
    assert (np.load(tmp_path / "ids.npy") == ids).all()
