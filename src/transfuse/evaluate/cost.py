"""What a model costs to keep and to run: parameters, multiply-accumulates, bytes, memory, latency, throughput."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.evaluate.operations import count_operations, peak_bytes
from transfuse.evaluate.predict import evaluation_mode

FORMAT = 4  # of what `measure` returns; raised when figures that were kept elsewhere have to be measured anew
BATCHES = (1, 8, 64)
_SECONDS = {1: 1.0, 8: 0.4, 64: 0.4}  # per model and batch, warm-up included; a slower model is still run a few times
_WARM_UP = 3
_FEWEST = 5
_UNSEEN = ("parameters", "macs", "macs_leave_out", "memory")  # of a graph that a runtime beside torch runs
_LONGEST_PASS = 3.0  # seconds; larger batches of which one pass would take longer are left out, with the reason


def measure(module: nn.Module, example_input: Tensor, threads: int = 1, runs: int = 200) -> dict[str, Any]:
    """Cost of a module, in PyTorch; of a graph that onnxruntime runs only what shows from outside, its bytes and latency.

    - parameters: numbers in `module.parameters()`, shared ones once.
    - macs: half of the floating-point operations that `torch.utils.flop_counter` counts in one forward pass at batch 1: matrix products,
      convolutions, attention. `macs_leave_out` names every other operator that computes with more than one element at a time, and how
      often it ran; element-wise ones are no multiply-accumulates.
    - bytes: the tensors of `state_dict()`, parameters and buffers, shared ones once: what a safetensors file of the module holds beside
      its header. A module that a runtime of its own runs adds the bytes of its file (`stored_bytes`).
    - memory: bytes of all parameters and buffers while the model is loaded (`weights`), and the most bytes of tensors that live at one
      time in a forward pass at batch 1 (`peak`: weights, input and what is between; without what a kernel allocates inside itself).
    - latency_ms: for batches of 1, 8 and 64, p50 and p95 over up to `runs` forward passes after warm-up, in the module's own precision
      and on its device, which is waited for; `samples_per_second` is the batch divided by p50.

    Args:
        module: the model; mode and thread count are restored afterwards.
        example_input: preprocessed inputs [n, ...], of which the first is used.
        threads: CPU threads for the latency.
        runs: most forward passes for each batch; some two seconds in all.
    """
    example, graph = example_input[:1], runs_a_graph(module)
    weights = next(iter(module.parameters()), example)
    with evaluation_mode(module):
        counted: dict[str, Any] = dict.fromkeys(_UNSEEN) if graph else _counted(module, example)
        timed, reasons = latencies(module, example, threads, runs)
    if graph:
        reasons = {**dict.fromkeys((*_UNSEEN, "latency_ms.dtype"), "a graph that onnxruntime runs"), **reasons}
    measured = {
        **counted,
        "bytes": tensor_bytes(module),
        "latency_ms": {
            "runtime": "torch" if not graph else "onnxruntime" if hasattr(module, "stored_bytes") else "torch and onnxruntime",
            "device": weights.device.type,
            "threads": threads,
            "dtype": None if graph else str(weights.dtype).removeprefix("torch."),
            **timed,
        },
    }
    return measured | ({"reasons": reasons} if reasons else {})


def runs_a_graph(module: nn.Module) -> bool:
    """Whether a runtime beside torch runs it or a part of it, whose weights and operators torch doesn't see."""
    return any(hasattr(part, "stored_bytes") for part in module.modules())


def count_parameters(module: nn.Module) -> int | None:
    """Numbers in its parameters, shared ones once; None where a runtime beside torch holds them."""
    return None if runs_a_graph(module) else sum(parameter.numel() for parameter in module.parameters())


def _counted(module: nn.Module, example: Tensor) -> dict[str, Any]:
    macs, left_out = count_operations(module, example)
    memory = {"weights": resident_bytes(module), "peak": peak_bytes(module, example)}
    return {"parameters": count_parameters(module), "macs": macs, "macs_leave_out": left_out, "memory": memory}


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of the state dict's tensors, those that are the same memory once, as they are written once; and of files that modules run."""
    return _once(module.state_dict().items()) + sum(getattr(part, "stored_bytes", 0) for part in module.modules())


def resident_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers in memory, those that are in no state dict too."""
    return _once([*module.named_parameters(), *module.named_buffers()])


def _once(tensors: Any) -> int:
    seen: dict[tuple[Any, ...], int] = {}
    for name, tensor in tensors:
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        seen[place] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


@contextmanager
def _using_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def latencies(
    module: nn.Module, example: Tensor, threads: int = 1, runs: int = 200
) -> tuple[dict[str, dict[str, float] | None], dict[str, str]]:
    """Latency of batches of the same sample: {"batch_1": {"p50", "p95", "samples_per_second"}, "batch_8": ...}, and why one is None."""
    found: dict[str, dict[str, float] | None] = {}
    reasons: dict[str, str] = {}
    per_sample = 0.0  # seconds, at the batch before
    for batch in BATCHES:
        name = f"batch_{batch}"
        found[name] = None
        if per_sample * batch > _LONGEST_PASS:
            reasons[f"latency_ms.{name}"] = f"left out: one pass would take about {per_sample * batch:.0f} s"
            continue
        try:
            timed = latency(module, example.repeat(batch, *[1] * (example.ndim - 1)), threads, runs, _SECONDS[batch])
        except RuntimeError as error:  # out of memory, or a shape that is built for one sample
            if batch == 1:
                raise
            reasons[f"latency_ms.{name}"] = f"the model can't take a batch of {batch}: {str(error).splitlines()[0]}"
            continue
        found[name], per_sample = timed, timed["p50"] / 1e3 / batch
    return found, reasons


def latency(module: nn.Module, inputs: Tensor, threads: int = 1, runs: int = 200, seconds: float = 1.0) -> dict[str, float]:
    """Milliseconds of a forward pass and samples per second: {"p50", "p95", "samples_per_second"}."""
    times: list[float] = []
    start = time.perf_counter()
    with _using_threads(threads), torch.inference_mode():
        while len(times) < _WARM_UP + _FEWEST or (len(times) < _WARM_UP + runs and time.perf_counter() - start < seconds):
            before = time.perf_counter()
            module(inputs)
            if inputs.device.type == "cuda":
                torch.cuda.synchronize(inputs.device)
            times.append(1e3 * (time.perf_counter() - before))
    p50, p95 = np.percentile(times[_WARM_UP:], [50, 95])
    return {"p50": float(p50), "p95": float(p95), "samples_per_second": float(1e3 * len(inputs) / p50)}
