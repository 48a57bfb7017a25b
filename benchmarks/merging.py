"""What the measurements of weight fusion share: tensors of MNIST, calibration data, accuracy, a plain training loop."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data
from benchmarks.real_weights import MNIST
from transfuse.evaluate.statistics import over_seeds
from transfuse.fusion.types import Calibration


@dataclass(frozen=True)
class Part:
    """Inputs as the networks take them, and labels."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, start: int, stop: int) -> Part:
        return Part(self.inputs[start:stop], self.labels[start:stop])


def idx_parts(folder: Path) -> tuple[Part, Part]:
    """Training and test part of MNIST or of Fashion-MNIST, normalised as the published networks were trained."""

    def read(name: str) -> Tensor:
        content = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
        start = 4 + 4 * content[3]
        return torch.from_numpy(np.frombuffer(content[start:], np.uint8).copy())

    def part(name: str) -> Part:
        return Part(MNIST.exact_batch(read(f"{name}-images-idx3").view(-1, 1, 28, 28)), read(f"{name}-labels-idx1").long())

    return part("train"), part("t10k")


def mnist() -> tuple[Part, Part]:
    """Training and test part."""
    return idx_parts(data.mnist_folder())


@torch.no_grad()
def logits(network: nn.Module, part: Part) -> Tensor:
    """Outputs in eval mode."""
    network.eval()
    return torch.cat([network(inputs) for inputs in part.inputs.split(1000)])


def percent(outputs: Tensor, labels: Tensor) -> float:
    """Accuracy."""
    return 100 * float((outputs.argmax(1) == labels).double().mean())


def accuracy(network: nn.Module, part: Part) -> float:
    """In percent."""
    return percent(logits(network, part), part.labels)


def calibration(part: Part, batch_size: int = 500, judge: Callable[[nn.Module], float] | None = None) -> Calibration:
    """Rules on weights are given the first samples of a part."""

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        some = part.rows(0, count)
        return zip(some.inputs.split(batch_size), some.labels.split(batch_size), strict=True)

    return Calibration(batches, lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"), judge)


def train(network: nn.Module, part: Part, optimizer: torch.optim.Optimizer, epochs: int, batch_size: int, seed: int) -> None:
    """Cross-entropy; batches in an order that the seed decides; a cosine schedule down to 0."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(part) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(part), generator=generator)[: len(part) // batch_size * batch_size].split(batch_size):
            loss = F.cross_entropy(network(part.inputs[rows]), part.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def spread(values: list[float], digits: int = 2) -> dict[str, Any]:
    """Mean, standard deviation and 95 % t-interval of the mean over runs."""
    found = over_seeds(values)
    interval = None if found.interval is None else [round(bound, digits) for bound in found.interval]
    std = None if found.std is None else round(found.std, digits)
    return {"mean": round(found.mean, digits), "std": std, "interval": interval, "runs": [round(value, digits) for value in values]}
