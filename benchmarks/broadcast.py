"""The obvious way to write nst, fsp and crd, which pairs everything with everything in memory, and the large student of the cost table.

What authors' repositories and their descendants do: unsqueeze, multiply, sum. Kept here to be measured against, never to be used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.objectives.features.fsp import fsp_loss
from transfuse.objectives.features.nst import nst_loss
from transfuse.objectives.relations.crd import crd_loss

Work = Callable[[], None]


def nst(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The polynomial kernel between all pairs of channels, by broadcasting."""
    student, teacher = (F.normalize(feature.flatten(2), dim=2) for feature in (student_features, teacher_features.detach()))

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first.unsqueeze(1) * second.unsqueeze(2)).sum(-1).square().mean((1, 2))

    return kernel(student, student) + kernel(teacher, teacher) - 2 * kernel(student, teacher)


def fsp(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Products of all pairs of channels, then the mean over positions."""

    def flow(first: Tensor, second: Tensor) -> Tensor:
        side = min(first.shape[2], second.shape[2])
        first, second = (F.adaptive_max_pool2d(maps, side) if maps.shape[2] > side else maps for maps in (first, second))
        return (first.unsqueeze(1) * second.unsqueeze(2)).flatten(3).mean(-1)

    values = []
    for number in range(len(student_features) - 1):
        student = flow(student_features[number], student_features[number + 1])
        teacher = flow(teacher_features[number].detach(), teacher_features[number + 1].detach())
        values.append((student - teacher).square().mean((1, 2)))
    return torch.stack(values).sum(0)


def crd(student: Tensor, teacher: Tensor, banks: tuple[Tensor, Tensor], drawn: Tensor, constants: Tensor, temperature: float) -> Tensor:
    """Every sample's own draw of rows is copied out of the bank, [batch, draws, dimensions], as in the authors' memory."""

    def contrast(anchors: Tensor, positives: Tensor, bank: Tensor, constant: Tensor) -> Tensor:
        rows = bank[drawn.flatten()].view(*drawn.shape, -1)
        scores = torch.exp(torch.bmm(rows, anchors.unsqueeze(2)).squeeze(2) / temperature) / constant
        positive = torch.exp((anchors * positives).sum(1) / temperature) / constant
        noise = drawn.shape[1]
        return -(positive / (positive + noise)).log() - (noise / (scores + noise)).log().sum(1)

    return contrast(student, teacher, banks[1], constants[0]) + contrast(teacher, student, banks[0], constants[1])


def cases() -> dict[str, tuple[Work, Work]]:
    """Label -> (ours, the obvious one): forward and backward, on the same numbers.

    At 56x56x256 the obvious nst and fsp would take 26 GB a product at batch 32, so there both run on one sample.
    """
    generator = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).relu_().requires_grad_()

    found = {}
    for label, shapes in {
        "batch 64, CIFAR": [(64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8)],
        "batch 1, 56x56x256": [(1, 256, 56, 56), (1, 256, 56, 56)],
    }.items():
        student, teacher = ([maps(*shape) for shape in shapes] for _ in range(2))
        last = [(one, other) for one, other in zip(student, teacher, strict=True)][0 if "CIFAR" in label else 1 :]

        def summed(loss: Callable[[Tensor, Tensor], Tensor], pairs: list[tuple[Tensor, Tensor]] = last) -> Tensor:
            return torch.stack([loss(one, other) for one, other in pairs]).sum(0)

        found[f"nst, {label}"] = (_work(student, lambda s=summed: s(nst_loss)), _work(student, lambda s=summed: s(nst)))
        found[f"fsp, {label}"] = (
            _work(student, lambda s=student, t=teacher: fsp_loss(s, t)),
            _work(student, lambda s=student, t=teacher: fsp(s, t)),
        )
    return found | {"crd, batch 64, 16,384 negatives of 128 numbers": crd_case(64, 16384, 128)}


def crd_case(batch: int, size: int, dimensions: int, temperature: float = 0.07) -> tuple[Work, Work]:
    """Both contrast with as many negatives: ours with the whole bank, the obvious one with as many rows drawn from it."""
    generator = torch.Generator().manual_seed(0)
    units = [F.normalize(torch.randn(rows, dimensions, generator=generator), dim=1) for rows in (batch, batch, size, size)]
    student, teacher = (unit.requires_grad_() for unit in units[:2])
    banks, constants = (units[2], units[3]), torch.tensor([1.5, 1.5])
    allowed = torch.ones(batch, size, dtype=torch.bool)
    drawn = torch.randint(size, (batch, size), generator=generator)
    leaves = [student, teacher]
    ours = _work(leaves, lambda: crd_loss(student, teacher, *banks, allowed, constants, temperature))
    return ours, _work(leaves, lambda: crd(student, teacher, banks, drawn, constants, temperature))


def _work(leaves: list[Tensor], value: Callable[[], Tensor]) -> Work:
    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        value().mean().backward()

    return work


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut (He, Zhang, Ren, Sun, 2016, CVPR)."""

    def __init__(self, channels: int, inner: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, 4 * inner, 1, bias=False),
            nn.BatchNorm2d(4 * inner),
        )
        same = stride == 1 and channels == 4 * inner
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(self.body(inputs) + self.shortcut(inputs))


class ResNet50(nn.Module):
    """The usual student for 224x224: its first stage gives 56x56x256, its bare step is the unit at that scale.

    Args:
        classes: outputs.
        stages: how many of its four there are; with one, the last features are those of 56x56x256.
    """

    def __init__(self, classes: int, stages: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        channels, blocks = 64, []
        for stage, depth in enumerate((3, 4, 6, 3)[:stages]):
            for block in range(depth):
                blocks.append(Bottleneck(channels, 64 * 2**stage, 2 if stage and not block else 1))
                channels = 256 * 2**stage
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
