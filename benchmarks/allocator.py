"""What it brings that a job keeps freed memory (`engine/memory.py`): a training step with it and without, in processes that take turns.

    python -m benchmarks.allocator

Each process trains one network and is told to do so or not to; while one does its steps the others wait. Ratios are taken between turns of
the same round. Page faults are those of the last turn, per step; memory is the process's largest.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import results
from benchmarks.peers.turns import Contender, Turns, ratio
from transfuse import models
from transfuse.core.types import ModelRequest
from transfuse.engine import memory, precision
from transfuse.engine.optim import build_optimizer

ROUNDS = 9
GIVEN_BACK, KEPT = "given back", "kept"
CASES = {  # network, inputs, compiled, steps a turn
    "ResNet-20, 128 pictures of 32x32": ("builtin:resnet20", (128, 3, 32, 32), False, 10),
    "ResNet-20, 128 pictures of 32x32, compiled": ("builtin:resnet20", (128, 3, 32, 32), True, 10),
    "ResNet-18, 16 pictures of 224x224": ("timm:resnet18", (16, 3, 224, 224), False, 4),
    "MLP, 512 rows of 784 columns": ("builtin:mlp", (512, 784), False, 400),
}


def child(case: str, kept: bool) -> None:
    """Trains in turns until it is stopped."""
    source, shape, compiled, block = CASES[case]
    if kept:
        assert memory.keep_freed(), "this system's C library can't be told to"
    step, turns = training(source, shape, compiled), Turns(block)
    for _ in range(6):
        step()
    turns.ready()
    for number in count(1):
        step()
        turns.step(number)


def training(source: str, shape: tuple[int, ...], compiled: bool) -> Callable[[], None]:
    """One step of SGD in the format that the processor is good at."""
    network = models.open_model(source, ModelRequest(outputs=10, input_shape=shape[1:], seed=0)).network.train()
    inputs, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])
    if inputs.ndim == 4:
        network, inputs = network.to(memory_format=torch.channels_last), inputs.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, "sgd", {"lr": 0.01})
    forward: Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
    numbers = "bf16" if precision.has_bf16_units("cpu") else "fp32"

    def step() -> None:
        with precision.autocast(numbers, "cpu"):
            logits = forward(inputs)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def page_faults(process: int) -> int:
    """Those that a process has had so far without reading a disk (proc_pid_stat(5), minflt)."""
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[7])


def measure(case: str) -> dict[str, Any]:
    """One case with freed memory given back and kept."""
    contenders = {name: Contender(name, "benchmarks.allocator", [case, name]) for name in (GIVEN_BACK, KEPT)}
    faults = dict.fromkeys(contenders, 0)
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            before = page_faults(contender.process.pid)
            contender.turn()
            faults[name] = page_faults(contender.process.pid) - before
    row: dict[str, Any] = {"case": case}
    for name, contender in contenders.items():
        found = {"ms": round(statistics.median(contender.blocks), 2), "page_faults": round(faults[name] / CASES[case][3])}
        row[name] = found | {"peak_mb": contender.memory()["peak_mb"]}
        contender.stop()
    row[f"{KEPT} in units of {GIVEN_BACK}"] = ratio(contenders[KEPT].blocks, contenders[GIVEN_BACK].blocks)
    print(row)
    return row


def main() -> None:
    if len(sys.argv) == 3:
        child(sys.argv[1], sys.argv[2] == KEPT)
        return
    content = {"rounds": ROUNDS, "cases": [measure(case) for case in CASES]}
    print(results.write("allocator", content))


if __name__ == "__main__":
    main()
