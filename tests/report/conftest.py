"""The outputs of a run, to render a page from."""

import pytest

from tests.report.run_outputs import make_run_outputs


@pytest.fixture
def run(tmp_path):
    return make_run_outputs(tmp_path, queries=30)
