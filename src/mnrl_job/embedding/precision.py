"""The arithmetic of the forward pass. Weights, loss and scores are fp32 whatever is chosen here."""

from typing import Literal

import torch

from mnrl_job.errors import EnvironmentFailure

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """`auto` is bf16 where the hardware multiplies it (GPUs since Ampere; CPUs with AMX or AVX512-BF16), else fp32.

    Raises:
        EnvironmentFailure: where the device cannot do what is wanted.
    """
    on_gpu = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bf16()
    if wanted == "auto":
        return "bf16" if has_bf16 else "fp32"
    if wanted == "bf16" and on_gpu and not has_bf16:
        raise EnvironmentFailure("MNRL_PRECISION=bf16: this GPU has no bf16; use fp16, fp32 or auto")
    if wanted == "fp16" and not on_gpu:
        raise EnvironmentFailure("MNRL_PRECISION=fp16 needs a GPU; use bf16, fp32 or auto")
    return wanted


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself; others emulate it, slower than fp32."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a model computes with this precision."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
