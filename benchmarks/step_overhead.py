"""What our loop costs over a bare torch loop: same model, batch, optimiser and data, alternating in one process.

    python -m benchmarks.step_overhead

The bare loop does what a hand-written script would: index the data in memory, normalise, forward, loss, backward, learning rate, step of
torch's optimiser as it is made by default. Ours does the same and checks the loss, logs, seeds each step and could be killed at any moment.
Ratios are of medians over alternating blocks, so that a machine whose speed drifts slows both. Start-up is measured as whole processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import results
from benchmarks.updates import as_torch_makes_it
from transfuse import models, objectives
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest, WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine import schedule
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.precision import autocast
from transfuse.engine.steppers.supervised import Supervised

PREPROCESS = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,))
BLOCKS = 15


class Case:
    """One model on one kind of input, as a bare loop and as ours."""

    def __init__(self, source: str, shape: tuple[int, ...], batch_size: int, precision: str, steps: int):
        self.source, self.shape, self.batch_size, self.precision, self.steps = source, shape, batch_size, precision, steps
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(0, 256, (2048, *shape), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 10, (2048,), generator=generator)
        self.samples = ArraySamples(self.inputs, self.labels, np.arange(2048))
        self.order = Order(2048, batch_size, 0)

    def model(self) -> torch.nn.Module:
        request = ModelRequest(outputs=10, input_shape=self.shape)
        return models.open_model(self.source, request).network.to(memory_format=torch.channels_last).train()

    def bare(self, steps: int) -> float:
        model = self.model()
        optimizer = as_torch_makes_it(model, "sgd", {"lr": 0.01})
        began = time.perf_counter()
        for step in range(steps):
            ids, _ = self.order.batch(step)
            inputs = PREPROCESS(self.inputs[ids]).contiguous(memory_format=torch.channels_last)
            with autocast(self.precision, "cpu"):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), self.labels[ids])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * schedule.cosine((step + 0.5) / steps)
            optimizer.step()
        return (time.perf_counter() - began) / steps

    def ours(self, steps: int) -> float:
        loader = MemoryLoader(self.samples, BatchViews(views=1, seed=0), self.order)
        term = WeightedObjective("cross_entropy", objectives.get("cross_entropy")(), objectives.card("cross_entropy"), lambda progress: 1.0)
        stepper = Supervised(self.model(), PREPROCESS, [term], precision=self.precision, channels_last=True)
        loop = Loop(stepper, loader, Settings(steps=steps, seed=0, optimizer=("sgd", {"lr": 0.01})))
        began = time.perf_counter()
        loop.fit()
        return (time.perf_counter() - began) / steps

    def measure(self) -> dict[str, object]:
        self.bare(3), self.ours(3)  # warm-up
        pairs = [(self.bare(self.steps), self.ours(self.steps)) if block % 2 else self._swapped() for block in range(BLOCKS)]
        bare, ours = zip(*pairs, strict=True)
        ratios = sorted(one / two for two, one in pairs)
        found = {
            "model": self.source,
            "batch": [self.batch_size, *self.shape],
            "precision": self.precision,
            "bare_ms": round(1e3 * statistics.median(bare), 3),
            "ours_ms": round(1e3 * statistics.median(ours), 3),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(ratios[len(ratios) // 4], 4), round(ratios[3 * len(ratios) // 4], 4)],
            "blocks": BLOCKS,
            "steps_per_block": self.steps,
        }
        print(found)
        return found

    def _swapped(self) -> tuple[float, float]:
        ours = self.ours(self.steps)
        return self.bare(self.steps), ours


def start_up(runs: int = 15) -> dict[str, float]:
    """`transfuse --help` and `import transfuse` in bare interpreter starts."""

    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    bare, help_, import_ = [], [], []
    for _ in range(runs):
        bare.append(seconds("-c", "pass"))
        help_.append(seconds("-c", "import sys; sys.argv = ['transfuse', '--help']; from transfuse.cli.main import run; run()"))
        import_.append(seconds("-c", "import transfuse"))
    found = {
        "bare_interpreter_ms": round(1e3 * statistics.median(bare), 2),
        "help_ms": round(1e3 * statistics.median(help_), 2),
        "help_in_bare_starts": round(statistics.median(one / two for one, two in zip(help_, bare, strict=True)), 2),
        "import_in_bare_starts": round(statistics.median(one / two for one, two in zip(import_, bare, strict=True)), 2),
        "runs": runs,
    }
    print(found)
    return found


def main() -> None:
    cases = [
        Case("builtin:resnet20", (3, 32, 32), 128, "fp32", 10),
        Case("builtin:resnet20", (3, 32, 32), 128, "bf16", 15),
        Case("builtin:resnet20", (3, 32, 32), 16, "fp32", 50),
        Case("builtin:mlp", (1, 8, 8), 128, "fp32", 300),
    ]
    print(results.write("step_overhead", {"steps": [case.measure() for case in cases], "start_up": start_up()}))


if __name__ == "__main__":
    main()
