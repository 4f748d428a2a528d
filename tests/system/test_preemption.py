"""A request to stop is never lost, wherever the signal finds the program."""

import os
import signal

import pytest

from mnrl_job.errors import DataError, Preempted
from mnrl_job.system.preemption import raise_if_stop_requested, raise_on_signal


class Dropping:
    """Exceptions that are raised in a destructor are printed and gone."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def answered_by(error, request=signal.SIGTERM):
    """A library that answers the exception of a signal with one of its own."""
    with raise_on_signal():
        try:
            os.kill(os.getpid(), request)
        except Preempted:
            raise error from None


def test_a_library_that_answers_the_stop_with_an_error_of_its_own_still_means_the_stop():
    with pytest.raises(Preempted, match="SIGTERM"):
        answered_by(TypeError("as numpy.load does: expected str, bytes or os.PathLike object, not BufferedReader"))


def test_an_error_of_the_user_keeps_its_words_when_a_stop_comes_late():
    with pytest.raises(DataError, match="a bad row"):
        answered_by(DataError("a bad row"), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_falls_into_a_destructor_takes_effect_where_the_program_next_gives_way():
    with raise_on_signal():
        Dropping()
        with pytest.raises(Preempted):
            raise_if_stop_requested()


def test_without_a_request_errors_stay_what_they_are():
    with pytest.raises(TypeError, match="ours"), raise_on_signal():
        raise TypeError("ours")
