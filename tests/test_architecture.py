"""The supervisor stays light: whatever it imports, torch is not among it."""

import subprocess
import sys


def test_the_supervisor_imports_no_torch():
    heavy = ("torch", "transformers", "datasets", "sentence_transformers")
    code = f"import sys, mnrl_job.cli, mnrl_job.job; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
