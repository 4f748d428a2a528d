"""A request to stop is not lost, wherever the signal arrives."""

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


def test_a_library_error_that_replaces_preempted_is_reported_as_preempted():
    with pytest.raises(Preempted, match="SIGTERM"):
        answered_by(TypeError("as numpy.load does: expected str, bytes or os.PathLike object, not BufferedReader"))


def test_a_job_error_is_kept_if_a_stop_request_follows():
    with pytest.raises(DataError, match="a bad row"):
        answered_by(DataError("a bad row"), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_request_in_a_destructor_takes_effect_at_the_next_check():
    with raise_on_signal():
        Dropping()
        with pytest.raises(Preempted):
            raise_if_stop_requested()


def test_errors_without_a_stop_request_are_unchanged():
    with pytest.raises(TypeError, match="ours"), raise_on_signal():
        raise TypeError("ours")
