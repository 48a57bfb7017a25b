"""Random erasing: a rectangle of a picture is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transfuse.data.views.boxes import drawn_boxes
from transfuse.data.views.draws import Draws


@dataclass(frozen=True)
class Erasing:
    """Random erasing (Zhong, Zheng, Kang, Li, Yang, 2020, AAAI, https://arxiv.org/abs/1708.04896).

    Rectangles are drawn as in torchvision's RandomErasing; where none of ten fits, the picture stays whole.

    Args:
        probability: share of the views that lose a rectangle.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        fill: noise (independent values, the paper's best) or the picture's own mean in each channel.
    """

    probability: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    fill: Literal["noise", "mean"]

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        rows = draws.happens("erasing", self.probability).nonzero()[:, 0]
        if not len(rows):
            return pictures
        some, theirs = pictures[rows], draws.select(rows)
        height, width = some.shape[2:]
        boxes = drawn_boxes(theirs, "erasing", (height, width), self.scale, self.ratio)
        hidden = boxes.covers(height, width) & boxes.found[:, None, None, None]
        changed = pictures.clone()
        changed[rows] = torch.where(hidden, self._filling(some, theirs), some)
        return changed

    def _filling(self, pictures: Tensor, draws: Draws) -> Tensor:
        if self.fill == "noise":
            return draws.bytes("erasing.noise", pictures[0].numel()).reshape(pictures.shape)
        count = pictures.shape[2] * pictures.shape[3]
        return ((2 * pictures.sum((2, 3), keepdim=True) + count) // (2 * count)).to(pictures.dtype)
