"""Library messages on stderr go through our log, so that every line is JSON."""

import json
import subprocess
import sys

import pytest

from tests.program import ROOT, clean_environment

SAID = """
import logging, sys, warnings
import transformers, huggingface_hub
from mnrl_job.system import logs
logs.set_up(sys.argv[1])
transformers.utils.logging.get_logger("transformers.modeling_utils").warning("a table\\nof two lines")
transformers.utils.logging.get_logger("transformers.modeling_utils").error("an error\\nof two lines")
logging.getLogger("huggingface_hub.file_download").warning("slow")
warnings.warn("old")
logs.warn("ours")
"""


@pytest.mark.parametrize("wanted", ["json", "text"])
def test_libraries_log_errors_only_in_our_format(wanted):
    command = [sys.executable, "-c", SAID, wanted]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, cwd=ROOT, check=True)
    assert "a table" not in done.stderr
    assert "slow" not in done.stderr
    lines = done.stderr.splitlines()
    if wanted == "json":
        assert [json.loads(line)["message"] for line in lines] == ["an error\nof two lines", "ours"]
    else:
        assert "an error" in lines[0]
        assert "ours" in lines[-1]
