"""ms of one optimiser update on a CPU: as torch makes the optimiser, and as we do (`engine/optim.py`), in alternating blocks.

python -m benchmarks.updates
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks import results
from benchmarks.peers.turns import ratio
from transfuse import models
from transfuse.core.types import ModelRequest
from transfuse.engine.optim import build_optimizer, lay_gradients

BLOCKS = 15
CASES = [("builtin:mlp", (1, 28, 28), 300), ("builtin:resnet20", (3, 32, 32), 100), ("timm:vit_small_patch16_224", (3, 224, 224), 10)]


def as_torch_makes_it(model: torch.nn.Module, name: str, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """Our parameter groups under torch's own choice of the update."""
    optimizer = build_optimizer(model, name, settings)
    for group in optimizer.param_groups:
        group["fused"] = None
    return optimizer


def measure(source: str, shape: tuple[int, ...], steps: int, name: str) -> dict[str, object]:
    """ms of one update of all parameters, as torch makes the optimiser and as we do, in alternating blocks."""
    model = models.open_model(source, ModelRequest(outputs=10, input_shape=shape)).network
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    optimizers = [as_torch_makes_it(model, name, {}), build_optimizer(model, name, {})]
    times: list[list[float]] = [[], []]
    for block in range(BLOCKS + 1):
        for optimizer, found in zip(optimizers, times, strict=True):
            began = time.perf_counter()
            for _ in range(steps):
                lay_gradients(optimizer)
                optimizer.step()
            if block:  # the first makes the running means
                found.append(1e3 * (time.perf_counter() - began) / steps)
    row = {
        "model": source,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": name,
        "torch_ms": round(statistics.median(times[0]), 3),
        "ours_ms": round(statistics.median(times[1]), 3),
        "times_as_fast": ratio(*times),
    }
    print(row)
    return row


def main() -> None:
    print(results.write("updates", {"blocks": BLOCKS, "rows": [measure(*case, name) for case in CASES for name in ("sgd", "adamw")]}))


if __name__ == "__main__":
    main()
