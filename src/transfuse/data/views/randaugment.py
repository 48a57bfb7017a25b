"""RandAugment: each sample goes through a few operations out of fourteen, all at one magnitude.

Cubuk, Zoph, Shlens, Le, 2020, NeurIPS, https://arxiv.org/abs/1909.13719. Operations and their strengths are torchvision's
(transforms.v2.RandAugment): magnitude m of 30 means shear by 0.3 m/30, translation by 150/331 of the side times m/30, rotation by 30 m/30
degrees, enhancement by 1 +- 0.9 m/30, posterizing to 8 - 4 m/30 bits (rounded), solarizing from 255 (1 - m/30), with a random sign where
there is one. Geometric operations take the nearest pixel, and black where there is none. Samples that drew the same operation go through it
together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.data.views import colour
from transfuse.data.views.draws import Draws
from transfuse.data.views.placement import FINE, rotation_matrices, source_positions, take_pixels

MAGNITUDES = 30  # the largest
Operation = Callable[[Tensor, float, Tensor], Tensor]  # (pictures, magnitude / 30, signs of -1 and 1) -> pictures


def identity(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return pictures


def shear_x(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """Rows shifted to the left by 0.3 strength times their distance from the upper edge."""
    return sheared(pictures, 0.3 * strength * signs.double(), 0)


def shear_y(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """Columns shifted upwards by 0.3 strength times their distance from the left edge."""
    return sheared(pictures, 0.3 * strength * signs.double(), 1)


def translate_x(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """To the right by whole pixels, 150/331 strength of the width, cut off."""
    return translated(pictures, int(150 / 331 * pictures.shape[3] * strength) * signs, 0)


def translate_y(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """Downwards by whole pixels, 150/331 strength of the height, cut off."""
    return translated(pictures, int(150 / 331 * pictures.shape[2] * strength) * signs, 1)


def rotate(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """Counter-clockwise by 30 strength degrees."""
    return nearest(pictures, rotation_matrices(30 * strength * signs.double()))


def brightness(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.brighter(pictures, 1 + 0.9 * strength * signs.double())


def saturation(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    """ "Color" in the paper."""
    return colour.saturated(pictures, 1 + 0.9 * strength * signs.double())


def contrast(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.contrasted(pictures, 1 + 0.9 * strength * signs.double())


def sharpness(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.sharpened(pictures, 1 + 0.9 * strength * signs.double())


def posterize(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.posterized(pictures, torch.full_like(signs, 8 - round(4 * strength)))


def solarize(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.solarized(pictures, torch.full_like(signs, 255 * (1 - strength), dtype=torch.float32))


def autocontrast(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.autocontrasted(pictures)


def equalize(pictures: Tensor, strength: float, signs: Tensor) -> Tensor:
    return colour.equalized(pictures)


OPERATIONS: tuple[Operation, ...] = (
    *(identity, shear_x, shear_y, translate_x, translate_y, rotate, brightness, saturation, contrast, sharpness),
    *(posterize, solarize, autocontrast, equalize),
)  # a new one changes which are drawn: raise batch.VERSION


@dataclass(frozen=True)
class RandAugment:
    """Random operations on 8-bit pictures.

    Args:
        num_ops: how many each sample goes through, one after the other; the same may come twice.
        magnitude: of all operations, 0 to 30.
    """

    num_ops: int
    magnitude: int

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        strength = self.magnitude / MAGNITUDES
        for number in range(self.num_ops):
            chosen = draws.integers(f"randaugment.{number}.operation", len(OPERATIONS))
            signs = 2 * draws.integers(f"randaugment.{number}.sign", 2) - 1
            changed = torch.empty_like(pictures)
            counts = chosen.bincount(minlength=len(OPERATIONS)).tolist()  # the one time that the device is waited for
            for operation, rows in zip(OPERATIONS, chosen.argsort(stable=True).split(counts), strict=True):
                if len(rows):
                    changed[rows] = operation(pictures[rows], strength, signs[rows])
            pictures = changed
        return pictures


def sheared(pictures: Tensor, amount: Tensor, axis: int) -> Tensor:
    """Pixels come from x + amount y (axis 0) or y + amount x (axis 1), counted from the upper left corner."""
    matrices = _identities(amount)
    matrices[:, axis, 1 - axis] = amount
    matrices[:, axis, 2] = amount * pictures.shape[2 + axis] / 2  # from the corner, not from the centre
    return nearest(pictures, matrices)


def translated(pictures: Tensor, pixels: Tensor, axis: int) -> Tensor:
    """To the right (axis 0) or downwards (axis 1)."""
    matrices = _identities(pixels.double())
    matrices[:, axis, 2] = -pixels.double()
    return nearest(pictures, matrices)


def nearest(pictures: Tensor, matrices: Tensor) -> Tensor:
    """The nearest pixel to where each comes from, black outside of the picture; matrices as for `source_positions`."""
    height, width = pictures.shape[2:]
    x, y = source_positions(matrices, height, width)
    x, y = (x + FINE // 2) >> 16, (y + FINE // 2) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return take_pixels(pictures, places) * inside[:, None]


def _identities(like: Tensor) -> Tensor:
    return torch.eye(2, 3, dtype=torch.float64, device=like.device).repeat(len(like), 1, 1)
