"""The supervisor stays light: whatever it imports, torch is not among it. What takes long lets other threads get on."""

import ast
import subprocess
import sys

from tests.program import ROOT

# Of a few numbers at a time.
FEW = {"minhash.py", "chunks.py"}


def test_the_supervisor_imports_no_torch():
    heavy = ("torch", "transformers", "datasets", "sentence_transformers")
    code = (
        "import sys, mnrl_job.cli\n"
        "from mnrl_job.pipeline import check, evaluate, train, verify\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_large_is_made_unique_in_the_ways_that_keep_python_locked():
    """By `axis`, or without a further result, `np.unique` is slow and holds up heartbeats; see `integer_sets.py`."""
    slow = []
    for path in (ROOT / "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "np.unique" and path.name not in FEW:
                words = {one.arg for one in call.keywords}
                if "axis" in words or not words:
                    slow.append(f"{path.name}:{call.lineno}")
    assert slow == []
