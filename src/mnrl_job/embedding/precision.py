"""Precision of the forward pass. Weights, loss and scores are always fp32."""

from typing import Literal

import torch

from mnrl_job.errors import EnvironmentFailure

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(requested: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """`auto` is bf16 if the hardware supports it (GPUs since Ampere; CPUs with AMX or AVX512-BF16), else fp32.

    Raises:
        EnvironmentFailure: the device does not support the requested precision.
    """
    on_gpu = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bf16()
    if requested == "auto":
        return "bf16" if has_bf16 else "fp32"
    if requested == "bf16" and on_gpu and not has_bf16:
        raise EnvironmentFailure("MNRL_PRECISION=bf16: this GPU does not support bf16; use fp16, fp32 or auto")
    if requested == "fp16" and not on_gpu:
        raise EnvironmentFailure("MNRL_PRECISION=fp16 needs a GPU; use bf16, fp32 or auto")
    return requested


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions; emulation is slower than fp32."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
