"""What a training step of ours costs on a GPU beside a loop tuned by hand: alone, with a live teacher, and with stored answers.

    python -m benchmarks.gpu_steps

Random pictures on the GPU, bf16, channels last, fused SGD in both. The hand-written loops do what a careful script does and nothing else.
Ours also seeds each step, checks its terms, logs, takes kernels that repeat their bits (`engine/repeatable.py`), and could be killed at any
moment. Blocks of all contenders alternate in one process; ratios are taken within a round. A block ends when the GPU has done all of it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import results
from benchmarks.cached_vs_live import remembering
from benchmarks.peers.turns import ratio
from transfuse import models, objectives
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest, WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine import schedule
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.parallel import own_device
from transfuse.engine.precision import autocast
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.jobs.train.training import graphed

PREPROCESS = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,))
TEMPERATURE = 4.0
BARE, OURS = "by hand", "transfuse"
ALONE, LIVE, STORED, KEPT = "student alone", "live teacher", "stored answers", "answers kept on the GPU"


@dataclass(frozen=True)
class Pair:
    """A student, its teacher, and what they look at.

    Attributes:
        student, teacher: model sources.
        shape: of a picture.
        batch, pool: pictures a step and in all.
        classes: outputs.
        steps: in a block.
        compiled: whether compiled networks take part.
    """

    student: str
    teacher: str
    shape: tuple[int, ...]
    batch: int
    pool: int
    classes: int
    steps: int
    compiled: bool


PAIRS = {
    "ResNet-56 to ResNet-20, 128 pictures of 32x32": Pair("builtin:resnet20", "builtin:resnet56", (3, 32, 32), 128, 10_000, 100, 60, True),
    "ResNet-50 to ResNet-18, 256 pictures of 224x224": Pair("timm:resnet18", "timm:resnet50", (3, 224, 224), 256, 2_048, 1000, 20, False),
}


class Bench:
    """The contenders of one pair, each a function that runs so many steps."""

    def __init__(self, pair: Pair, device: torch.device, folder: Path):
        self.pair, self.device, self.folder = pair, device, folder
        generator = torch.Generator().manual_seed(0)
        raw = torch.randint(0, 256, (pair.pool, *pair.shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, pair.classes, (pair.pool,), generator=generator)
        self.order = Order(pair.pool, pair.batch, 0)
        self.loader = MemoryLoader(ArraySamples(raw, labels, np.arange(pair.pool)), BatchViews(views=1, seed=0), self.order, device)
        self.raw, self.labels = raw.to(device), labels.to(device)

    def network(self, source: str) -> nn.Module:
        request = ModelRequest(outputs=self.pair.classes, input_shape=self.pair.shape)
        network = models.open_model(source, request).network
        return network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def by_hand(self, kind: str, wrapped: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> Callable[[int], None]:
        """A loop from a careful script; answers that are kept are a table on the GPU."""
        student, teacher = self.network(self.pair.student), self.network(self.pair.teacher).eval()
        forward = wrapped(student)
        teaches = torch.compile(teacher) if wrapped is graphed else wrapped(teacher)  # graphs of one step overwrite each other's tensors
        table = torch.randn(self.pair.pool, self.pair.classes, device=self.device)

        def run(steps: int) -> None:
            optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
            for step in range(steps):
                ids = torch.randint(0, self.pair.pool, (self.pair.batch,), device=self.device)
                inputs = PREPROCESS(self.raw[ids]).contiguous(memory_format=torch.channels_last)
                with autocast("bf16", self.device):
                    logits = forward(inputs)
                loss = F.cross_entropy(logits.float(), self.labels[ids])
                if kind != ALONE:
                    with torch.no_grad(), autocast("bf16", self.device):
                        said = teaches(inputs) if kind == LIVE else table[ids]
                    softened = (logits.float() / TEMPERATURE).log_softmax(1)
                    target = (said.float() / TEMPERATURE).log_softmax(1)
                    divergence = F.kl_div(softened, target, reduction="batchmean", log_target=True) * TEMPERATURE**2
                    loss = 0.1 * loss + 0.9 * divergence
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = 0.01 * schedule.cosine((step + 0.5) / steps)
                optimizer.step()

        return run

    def ours(self, kind: str, wrapped: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> Callable[[int], None]:
        """Our loop; a block is a training of its own, so that it pays for its start and its end."""
        student = self.network(self.pair.student)
        teachers: dict[str, Any] = {}
        if kind != ALONE:
            network = self.network(self.pair.teacher)
            live = LiveTeacher(network, PREPROCESS, self.loader.fetch, self.device, "bf16", channels_last=True)
            teachers = {"teacher": live if kind == LIVE else remembering(live, self.folder, "fp16", self.pair.pool, self.pair.classes)}
        weights = {"cross_entropy": 1.0} if kind == ALONE else {"cross_entropy": 0.1, "kd": 0.9}
        terms = [
            WeightedObjective(
                name,
                objectives.get(name)(),
                objectives.card(name),
                lambda progress, weight=weight: weight,
                ("teacher",) if name == "kd" else (),
            )
            for name, weight in weights.items()
        ]
        stepper = Supervised(student, PREPROCESS, terms, teachers, "bf16", channels_last=True, forward=wrapped(student))

        def run(steps: int) -> None:
            Loop(stepper, self.loader, Settings(steps=steps, seed=0, optimizer=("sgd", {"lr": 0.01}))).fit()

        return run

    def contenders(self) -> dict[str, Callable[[int], None]]:
        plain: dict[str, Callable[[nn.Module], Any]] = {"": lambda network: network}
        if self.pair.compiled:
            plain[", compiled"] = torch.compile
        if self.pair.compiled and self.device.type == "cuda":
            plain[", compiled with CUDA graphs"] = graphed
        found = {}
        for suffix, wrapped in plain.items():
            for kind in (ALONE, KEPT) if suffix else (ALONE, KEPT, LIVE):
                found[f"{BARE}: {kind}{suffix}"] = self.by_hand(kind, wrapped)
            for kind in (ALONE, STORED) if suffix else (ALONE, STORED, LIVE):
                found[f"{OURS}: {kind}{suffix}"] = self.ours(kind, wrapped)
        return found

    def measure(self, rounds: int) -> list[dict[str, Any]]:
        """One row a contender: ms a step, its time in steps of the bare student, and the memory that a block takes at most."""
        contenders = self.contenders()
        times: dict[str, list[float]] = {name: [] for name in contenders}
        peaks: dict[str, int] = {}
        for number in range(-1, rounds):  # the first is compilation and stored answers
            for name, run in contenders.items():
                seconds, peak = self.timed(run, self.order.steps(1) if number < 0 else self.pair.steps)
                if number >= 0:
                    times[name].append(seconds)
                    peaks[name] = peak
            click.echo(f"round {number}: " + ", ".join(f"{name} {1e3 * (found or [0])[-1]:.2f}" for name, found in times.items()))
        bare = f"{BARE}: {ALONE}"
        rows = []
        for name, found in times.items():
            ms = round(1e3 * statistics.median(found), 3)
            rows.append({"contender": name, "ms": ms, "in_bare_steps": ratio(found, times[bare]), "peak_mib": peaks[name] // 2**20})
            click.echo(rows[-1])
        return rows

    def timed(self, run: Callable[[int], None], steps: int) -> tuple[float, int]:
        """Seconds a step, and the most memory that was taken meanwhile, in bytes."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        run(steps)
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / steps, torch.cuda.max_memory_allocated() if on_gpu else 0


@click.command()
@click.argument("chosen", nargs=-1)
@click.option("--rounds", default=7, show_default=True)
def main(chosen: tuple[str, ...], rounds: int) -> None:
    """Times all pairs, or those whose names begin so."""
    rows = {}
    for name, pair in PAIRS.items():
        if not chosen or name.startswith(chosen):
            click.echo(name)
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = Bench(pair, own_device(), Path(folder)).measure(rounds)
    click.echo(results.write("gpu_steps", {"rounds": rounds, "steps": rows}))


if __name__ == "__main__":
    main()
