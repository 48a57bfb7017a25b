"""Random rectangles with a share of a picture's area, for resized crops and erasing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.data.views.draws import Draws

TRIES = 10


@dataclass(frozen=True)
class Boxes:
    """One rectangle per sample, int64 [batch] each, in pixels.

    Attributes:
        top, left, height, width: of the rectangle.
        found: bool [batch], whether one of the tries fitted.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    found: Tensor

    def covers(self, height: int, width: int) -> Tensor:
        """bool [batch, 1, height, width]: which pixels of pictures of this size lie inside."""
        rows, columns = torch.arange(height, device=self.top.device), torch.arange(width, device=self.top.device)
        down = (rows >= self.top[:, None]) & (rows < (self.top + self.height)[:, None])
        across = (columns >= self.left[:, None]) & (columns < (self.left + self.width)[:, None])
        return down[:, None, :, None] & across[:, None, None, :]


def drawn_boxes(draws: Draws, name: str, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Boxes:
    """Rectangles inside pictures: the first of ten that fits, at a uniform place; the largest centred one where none does.

    Args:
        draws: of the batch.
        name: of what the rectangles are for.
        size: height and width of the pictures.
        scale: smallest and largest share of the area, uniform.
        ratio: smallest and largest width / height, log-uniform.
    """
    height, width = size
    area = draws.tries(f"{name}.area", TRIES, *scale) * (height * width)
    shape = draws.tries(f"{name}.ratio", TRIES, math.log(ratio[0]), math.log(ratio[1])).exp()
    tall, wide = (area / shape).sqrt().round().long(), (area * shape).sqrt().round().long()  # [tries, batch]
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(0)[None]
    found = fits.any(0)
    fallback = _largest(height, width, ratio)
    tall = torch.where(found, tall.gather(0, first)[0], fallback[0])
    wide = torch.where(found, wide.gather(0, first)[0], fallback[1])
    top = torch.where(found, draws.integers(f"{name}.top", height - tall + 1), (height - tall) // 2)
    left = torch.where(found, draws.integers(f"{name}.left", width - wide + 1), (width - wide) // 2)
    return Boxes(top, left, tall, wide, found)


def _largest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest rectangle whose ratio is allowed."""
    if width < height * ratio[0]:
        return max(1, min(height, round(width / ratio[0]))), width
    if width > height * ratio[1]:
        return height, max(1, min(width, round(height * ratio[1])))
    return height, width
