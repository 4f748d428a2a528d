"""Packages of trackers, and the warning about a tracker that fails."""

import pytest

from mnrl_job.tracking import packages
from mnrl_job.tracking.packages import check_packages, disabled_warning


def test_a_missing_package_is_a_warning_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(packages.PACKAGES, "mlflow", ("no-such-package", "no-such-package-skinny"))
    installed, missing = check_packages(("tensorboard", "mlflow"))
    assert (installed.check, installed.status) == ("tracker tensorboard", "passed")
    assert (missing.check, missing.status) == ("tracker mlflow", "warning")
    assert missing.remedy == "pip install no-such-package-skinny"


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        (ModuleNotFoundError("No module named 'mlflow'"), "pip install mlflow-skinny"),
        (OSError("refused\nby the\nserver " + "x" * 1000), "set MLFLOW_TRACKING_URI to a server that responds"),
    ],
)
def test_the_warning_is_one_line_with_the_variable_the_tracker_and_the_remedy(cause, remedy):
    line = disabled_warning("mlflow", cause)
    assert line.startswith("MNRL_REPORT_TO: mlflow is disabled")
    assert remedy in line
    assert "\n" not in line
    assert len(line) < 500
