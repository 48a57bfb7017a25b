"""Changes of colour with a strength per sample: brightness, contrast, saturation, hue, and what RandAugment has beside them.

For 8-bit pictures of one channel (grey) or three (RGB). Strengths are multiples of 1/4096, so that float32 holds each product of one with
an 8-bit value exactly, and results are rounded to the nearest 8-bit value. Pillow and torchvision cut off instead, which makes pictures
half a step darker, so theirs and ours may differ by one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.data.views.draws import Draws
from transfuse.data.views.parts import in_parts

STEPS = 4096  # of a strength
HUES = 6 * 1024  # parts of the circle of hues


@dataclass(frozen=True)
class Colour:
    """Random brightness, contrast, saturation and hue, in this order (torchvision's ColorJitter changes the order at random).

    Args:
        brightness, contrast, saturation: the factor is uniform in 1 - x .. 1 + x, not below 0.
        hue: the turn is uniform in -hue .. hue of the whole circle, at most 0.5; grey pictures have no hue and no saturation.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        changes = ((brighter, "brightness", self.brightness), (contrasted, "contrast", self.contrast))
        changes += ((saturated, "saturation", self.saturation),)
        for change, name, amount in changes:
            if amount:
                pictures = in_parts(change, pictures, draws.between(f"colour.{name}", max(0.0, 1 - amount), 1 + amount))
        if self.hue:
            pictures = in_parts(turned_hue, pictures, draws.between("colour.hue", -self.hue, self.hue))
        return pictures


def brighter(pictures: Tensor, factor: Tensor) -> Tensor:
    """Values times a factor per sample."""
    return _rounded(pictures * _steps(factor))


def contrasted(pictures: Tensor, factor: Tensor) -> Tensor:
    """Away from (above 1) or towards (below 1) the picture's mean grey, which is rounded to an 8-bit value as in Pillow."""
    grey = grey_of(pictures)
    count = grey[0].numel()
    mean = (2 * grey.flatten(1).sum(1) + count) // (2 * count)
    return _away_from(mean.view(-1, 1, 1, 1), pictures, factor)


def saturated(pictures: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards each pixel's grey; 0 gives a grey picture. A grey picture stays as it is."""
    return pictures if pictures.shape[1] == 1 else _away_from(grey_of(pictures), pictures, factor)


def sharpened(pictures: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the picture smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; its outermost pixels stay, as in Pillow."""
    if min(pictures.shape[2:]) < 3:
        return pictures
    wide = pictures.to(torch.int32)
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
    smooth = pictures.clone()
    smooth[..., 1:-1, 1:-1] = (total.float() * (1 / 13)).round().to(torch.uint8)  # a sum / 13 is never near the middle of two steps
    return _away_from(smooth, pictures, factor)


def turned_hue(pictures: Tensor, turn: Tensor) -> Tensor:
    """Adds to the hue of the HSV model, in turns of the circle, in steps of 1/6144 of it; value and saturation stay."""
    if pictures.shape[1] == 1:
        return pictures
    red, green, blue = pictures.to(torch.int32).unbind(1)
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    spread = high - low
    unit = spread.clamp(min=1).float()
    part = HUES // 6

    def within(difference: Tensor) -> Tensor:
        return (difference * part).float().div(unit).round().to(torch.int32)  # one division of whole numbers: the same on every device

    hue = torch.where(
        high == red, within(green - blue), torch.where(high == green, within(blue - red) + 2 * part, within(red - green) + 4 * part)
    )
    hue = hue + (turn * HUES).round().to(torch.int32)[:, None, None]
    channels = []
    for offset in (0, 4, 2):  # red is full where the hue is within a sixth of 0, green of 2 sixths, blue of 4 sixths
        place = (hue + offset * part).remainder(HUES)
        fullness = ((place - 3 * part).abs() - part).clamp(0, part)
        channels.append(low + (spread * fullness + part // 2) // part)
    return torch.stack(channels, dim=1).to(torch.uint8)


def posterized(pictures: Tensor, bits: Tensor) -> Tensor:
    """Keeps the uppermost bits of each value: int64 [batch], 0 to 8."""
    return pictures & ((255 << (8 - bits)) & 255).to(torch.uint8).view(-1, 1, 1, 1)


def solarized(pictures: Tensor, threshold: Tensor) -> Tensor:
    """Inverts values at or above a threshold: [batch]."""
    return torch.where(pictures >= threshold.view(-1, 1, 1, 1), 255 - pictures, pictures)


def autocontrasted(pictures: Tensor) -> Tensor:
    """Stretches each channel so that its darkest value becomes 0 and its brightest 255; a channel of one value stays."""
    low, high = pictures.amin((2, 3), keepdim=True).to(torch.int32), pictures.amax((2, 3), keepdim=True).to(torch.int32)
    stretched = ((pictures.to(torch.int32) - low) * 255).float().div((high - low).clamp(min=1).float()).round()
    return torch.where(high > low, stretched.to(torch.uint8), pictures)


def equalized(pictures: Tensor) -> Tensor:
    """Makes each channel's values as evenly frequent as they can be, by Pillow's rule; a channel of one value stays."""
    batch, channels, height, width = pictures.shape
    flat = pictures.reshape(batch * channels, height * width).long()
    counts = torch.zeros(batch * channels, 256, dtype=torch.int64, device=pictures.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    values = torch.arange(256, device=pictures.device)
    brightest = torch.where(counts > 0, values, 0).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, brightest)) // 255
    before = counts.cumsum(1) - counts
    table = torch.div(before + step // 2, step.clamp(min=1), rounding_mode="floor").clamp(max=255)
    table = torch.where(step > 0, table, values).to(torch.uint8)
    return table.gather(1, flat).view(pictures.shape)


def grey_of(pictures: Tensor) -> Tensor:
    """int32 [batch, 1, height, width]: 0.299 R + 0.587 G + 0.114 B in Pillow's whole numbers, rounded; grey pictures as they are."""
    wide = pictures.to(torch.int32)
    if pictures.shape[1] == 1:
        return wide
    return (wide[:, 0:1] * 19595 + wide[:, 1:2] * 38470 + wide[:, 2:3] * 7471 + 0x8000) >> 16


def _steps(factor: Tensor) -> Tensor:
    return ((factor * STEPS).round() / STEPS).to(torch.float32).view(-1, 1, 1, 1)


def _away_from(middle: Tensor, pictures: Tensor, factor: Tensor) -> Tensor:
    middle = middle.to(torch.float32)
    return _rounded((pictures.to(torch.float32) - middle).mul_(_steps(factor)).add_(middle))


def _rounded(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
