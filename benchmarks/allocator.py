"""What it brings that a job keeps freed memory (`engine/memory.py`): a training step with it and without, in processes that take turns.

    python -m benchmarks.allocator

Each process trains one network and is told to do so or not to; while one does its steps the others wait. Ratios are taken between turns of
the same round. Page faults are those of the last turn, per step; memory is the process's largest.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from benchmarks import results
from transfuse import models
from transfuse.core.types import ModelRequest
from transfuse.engine import memory, precision
from transfuse.engine.optim import build_optimizer

ROUNDS = 9
CASES = {  # network, inputs, compiled, steps a turn
    "ResNet-20, 128 pictures of 32x32": ("builtin:resnet20", (128, 3, 32, 32), False, 10),
    "ResNet-20, 128 pictures of 32x32, compiled": ("builtin:resnet20", (128, 3, 32, 32), True, 10),
    "ResNet-18, 16 pictures of 224x224": ("timm:resnet18", (16, 3, 224, 224), False, 4),
    "MLP, 512 rows of 784 columns": ("builtin:mlp", (512, 784), False, 400),
}


def child(case: str, kept: bool) -> None:
    """Trains in turns: a line in, some steps, their figures out."""
    source, shape, compiled, steps = CASES[case]
    if kept:
        assert memory.keep_freed(), "this system's C library can't be told to"
    step = training(source, shape, compiled)
    for _ in range(6):
        step()
    answer(sys.stdout, {})
    for _ in sys.stdin:
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        for _ in range(steps):
            step()
        passed, usage = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        figures = {"ms": 1e3 * passed / steps, "faults": (usage.ru_minflt - faults) / steps, "mb": usage.ru_maxrss / 1024}
        answer(sys.stdout, figures)


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


def answer(stream: IO[str], figures: dict[str, float]) -> None:
    stream.write(json.dumps(figures) + "\n")
    stream.flush()


def measure(case: str) -> dict[str, Any]:
    """One case with freed memory given back and kept."""
    command = [sys.executable, "-m", "benchmarks.allocator", case]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[1]}
    children = [subprocess.Popen([*command, how], **pipes, env=os.environ | {"PYTHONWARNINGS": "ignore"}) for how in ("given", "kept")]
    for process in children:
        json.loads(process.stdout.readline())
    turns: list[list[dict[str, float]]] = [[], []]
    for _ in range(ROUNDS):
        for process, found in zip(children, turns, strict=True):
            answer(process.stdin, {})
            found.append(json.loads(process.stdout.readline()))
    for process in children:
        process.communicate()
    ratios = sorted(kept["ms"] / given["ms"] for given, kept in zip(*turns, strict=True))
    row: dict[str, Any] = {"case": case}
    for how, found in zip(("given back", "kept"), turns, strict=True):
        ms = round(statistics.median(turn["ms"] for turn in found), 2)
        row[how] = {"ms": ms, "page_faults": round(found[-1]["faults"]), "largest_mb": round(found[-1]["mb"])}
    row["kept in units of given back"] = {
        "median": round(statistics.median(ratios), 3),
        "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[3 * len(ratios) // 4], 3)],
    }
    print(row)
    return row


def main() -> None:
    if len(sys.argv) == 3:
        child(sys.argv[1], sys.argv[2] == "kept")
        return
    content = {"rounds": ROUNDS, "cases": [measure(case) for case in CASES]}
    print(results.write("allocator", content))


if __name__ == "__main__":
    main()
