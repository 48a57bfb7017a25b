"""In which number format the networks run, and what the hardware is good at."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_bf16_units(device: torch.device | str) -> bool:
    """Whether bf16 products run in matrix units there: AMX or AVX-512 BF16 on a CPU, tensor cores on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capability.get("amx_bf16") or capability.get("avx512_bf16"))


def has_cpp_compiler() -> bool:
    """Whether torch.compile can build CPU code here: with $CXX, or with a compiler that goes by its usual name."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "c++", "clang++"))


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[object]:
    """The autocast context of a precision; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=DTYPES[precision])
