"""Reading settings in tests."""

import pytest

from mnrl_job.config.reader import read_settings
from mnrl_job.errors import SettingsError

REQUIRED = {"MNRL_TRAIN_DATA": "pairs.jsonl", "MNRL_OUTPUT": "out"}


def find_problems(command="train", flags=None, environ=None, dotenv=None):
    with pytest.raises(SettingsError) as caught:
        read_settings(command, flags or {}, environ or {}, dotenv or {})
    return str(caught.value).splitlines()
