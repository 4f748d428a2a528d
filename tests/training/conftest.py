"""Fixtures of the tests that train."""

from pathlib import Path

import pytest

from tests.training.four_steps import FourSteps, four_steps


@pytest.fixture
def run(tmp_path: Path) -> FourSteps:
    """How to train a model for four steps."""
    return four_steps(tmp_path)
