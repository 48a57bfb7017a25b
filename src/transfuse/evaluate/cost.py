"""What a model costs to keep and to run: parameters, multiply-accumulates, bytes, latency."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from transfuse.evaluate.predict import evaluation_mode

_SECONDS = 1.0  # per model, warm-up included; a model slower than that is still run a few times
_WARM_UP = 3
_FEWEST = 5


def measure(module: nn.Module, example_input: Tensor, threads: int = 1, runs: int = 200) -> dict[str, Any]:
    """Cost of a module for one sample, in PyTorch.

    - parameters: numbers in `module.parameters()`, shared ones once.
    - macs: half of the floating-point operations that `torch.utils.flop_counter` counts in one forward pass at batch 1. It counts matrix
      products, convolutions and attention; element-wise work, normalisation and recurrent kernels are not counted.
    - bytes: the tensors of `state_dict()`, parameters and buffers, shared ones once: what a safetensors file of the module holds beside
      its header.
    - latency_ms: p50 and p95 over up to `runs` forward passes at batch 1 after warm-up, in the module's own precision and on its device.

    Args:
        module: the model; mode and thread count are restored afterwards.
        example_input: preprocessed inputs [n, ...], of which the first is used.
        threads: CPU threads for the latency.
        runs: most forward passes; about a second in all.
    """
    example = example_input[:1]
    weights = next(iter(module.parameters()), example)
    with evaluation_mode(module):
        macs = count_macs(module, example)
        batch_1 = latency(module, example, threads, runs)
    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "macs": macs,
        "bytes": tensor_bytes(module),
        "latency_ms": {
            "runtime": "torch",
            "device": weights.device.type,
            "threads": threads,
            "dtype": str(weights.dtype).removeprefix("torch."),
            "batch_1": batch_1,
        },
    }


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of the state dict's tensors; those that are the same memory count once, as they are written once."""
    seen: dict[tuple[Any, ...], int] = {}
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        seen[place] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused transformer and attention kernels hide their matrix products from the counter
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            module(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


@contextmanager
def _using_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def latency(module: nn.Module, example: Tensor, threads: int = 1, runs: int = 200) -> dict[str, float]:
    """Milliseconds of a forward pass: {"p50", "p95"}."""
    times: list[float] = []
    start = time.perf_counter()
    with _using_threads(threads), torch.inference_mode():
        while len(times) < _WARM_UP + _FEWEST or (len(times) < _WARM_UP + runs and time.perf_counter() - start < _SECONDS):
            before = time.perf_counter()
            module(example)
            if example.device.type == "cuda":
                torch.cuda.synchronize(example.device)
            times.append(1e3 * (time.perf_counter() - before))
    p50, p95 = np.percentile(times[_WARM_UP:], [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
