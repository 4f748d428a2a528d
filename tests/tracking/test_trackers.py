"""Which trackers there are, and what is said of one that does not work."""

import pytest

from mnrl_job.tracking import trackers
from mnrl_job.tracking.trackers import left_out, look_at


def test_a_tracker_whose_package_is_missing_is_a_warning_with_the_command_that_helps(monkeypatch):
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", ("no-such-package", "no-such-package-skinny"))
    there, missing = look_at(("tensorboard", "mlflow"))
    assert (there.check, there.status) == ("tracker tensorboard", "passed")
    assert (missing.check, missing.status) == ("tracker mlflow", "warning")
    assert missing.remedy == "pip install no-such-package-skinny"


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (ModuleNotFoundError("No module named 'mlflow'"), "pip install mlflow-skinny"),
        (OSError("refused\nby the\nserver " + "x" * 1000), "set MLFLOW_TRACKING_URI to a server that answers"),
    ],
)
def test_what_is_said_is_one_line_with_the_variable_the_tracker_and_what_helps(why, remedy):
    line = left_out("mlflow", why)
    assert line.startswith("MNRL_REPORT_TO: mlflow is left out")
    assert remedy in line
    assert "\n" not in line
    assert len(line) < 500
