"""The Python that exports models, and whether it can.

The exporters want an older transformers than training does, so they live in an environment of their own inside ours:
its packages come first, ours behind them (`scripts/create-export-env`).
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.errors import SettingsError

FOLDER = ".export"
ROLE = "export"
# What the library imports for a format. Packages may be there and yet not go together, so that is tried.
NEEDED: dict[ExportFormat, str] = {
    "onnx": "from optimum.onnxruntime import ORTModelForFeatureExtraction",
    "openvino": "from optimum.intel.openvino import OVModelForFeatureExtraction",
    "int8": "from optimum.onnxruntime import ORTQuantizer",
}
# How each library loads what was exported so that it computes as was compared. By itself OpenVINO multiplies in bf16
# where the processor can (AVX512_BF16, AMX), and its files cannot say otherwise.
LOADING: dict[str, Mapping[str, Any]] = {"onnx": {}, "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}}


def python_of(role: str) -> str:
    """Which Python the workers of a role run in: ours, or that of the exporters where there is one."""
    exporters = Path(sys.prefix) / FOLDER / "bin" / "python"
    return str(exporters) if role == ROLE and exporters.exists() else sys.executable


def check_exporters(formats: Sequence[ExportFormat]) -> None:
    """Import what these formats need, which takes seconds; nothing for none.

    Raises:
        SettingsError: one cannot be had, and what helps.
    """
    if not formats:
        return
    steps = [f"print({one!r}, flush=True); {NEEDED[one]}" for one in formats]
    code = "\n".join(["import mnrl_job.worker.main", *steps])
    python = python_of(ROLE)
    tried = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if tried.returncode:
        reached = tried.stdout.split()
        reason = (tried.stderr.strip().splitlines() or ["no word"])[-1].strip()
        raise SettingsError(
            f"MNRL_EXPORT={','.join(formats)}: {reached[-1] if reached else formats[0]} cannot be exported by {python} "
            f"({reason}); run `make install-export` (scripts/create-export-env), or leave it out of MNRL_EXPORT"
        )
