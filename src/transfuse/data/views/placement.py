"""Where a view's pixels come from: random crops, mirroring, resized crops and rotations of whole batches, without a loop over samples.

Positions are whole numbers of 1/256 pixel. A value between pixels is a sum of 8-bit values times 8-bit weights, of which float32 holds
every intermediate result of 8-bit pictures exactly; it is rounded once, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.data.views.boxes import drawn_boxes
from transfuse.data.views.draws import Draws
from transfuse.data.views.parts import in_parts

PARTS = 256  # of a pixel
FINE = 2**16  # parts of a pixel in which matrices are kept, so that a sine's last digit, which differs between devices, decides nothing


def reflected(positions: Tensor, length: int) -> Tensor:
    """Positions beyond an edge, mirrored back inside; the edge pixel itself is not repeated, as in numpy's mode "reflect"."""
    positions = positions.abs()
    return torch.where(positions > length - 1, 2 * (length - 1) - positions, positions)


def crop_and_flip(pictures: Tensor, draws: Draws, crop: int, flip: bool) -> Tensor:
    """Pads by `crop` reflected pixels, cuts the original size out at one of (2 crop + 1)^2 places, mirrors half of the samples.

    Where each output row and column comes from is computed, then both are gathered: nothing is padded, no sample is looped over.

    Args:
        pictures: [batch, channels, height, width].
        draws: of the same batch.
        crop: pixels of padding, less than height and width.
        flip: whether to mirror left-right.
    """
    batch, _, height, width = pictures.shape
    rows = torch.arange(height, device=pictures.device).expand(batch, height)
    columns = torch.arange(width, device=pictures.device).expand(batch, width)
    if flip:
        columns = torch.where(draws.integers("flip", 2).bool()[:, None], width - 1 - columns, columns)
    if crop:
        rows = reflected(rows + (draws.integers("crop.row", 2 * crop + 1) - crop)[:, None], height)
        columns = reflected(columns + (draws.integers("crop.column", 2 * crop + 1) - crop)[:, None], width)
    return take_columns(take_rows(pictures, rows), columns)


def take_rows(pictures: Tensor, rows: Tensor) -> Tensor:
    """Each sample's rows, by number: int64 [batch, rows]; whole rows are copied at once."""
    batch, channels, height, width = pictures.shape
    which = torch.arange(batch * channels, device=pictures.device).view(batch, channels, 1) * height + rows[:, None, :]
    return pictures.reshape(-1, width).index_select(0, which.flatten()).view(batch, channels, rows.shape[1], width)


def take_columns(pictures: Tensor, columns: Tensor) -> Tensor:
    """Each sample's columns, by number: int64 [batch, columns]."""
    batch, channels, height, width = pictures.shape
    flat = pictures.reshape(batch, channels * height, width)
    return flat.gather(2, columns[:, None, :].expand(-1, channels * height, -1)).view(batch, channels, height, columns.shape[1])


def as_pictures(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats as the pictures' type; 8-bit ones are rounded to the nearest."""
    return values.round().to(dtype) if dtype == torch.uint8 else values.to(dtype)


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the picture, resized to the whole (Szegedy et al., 2015, CVPR, https://arxiv.org/abs/1409.4842), bilinear.

    The part has a uniform share of the area and a log-uniform ratio of width to height; what would not fit is drawn anew, ten times, then
    the largest centred part within the ratios is taken, as in torchvision's RandomResizedCrop. A part is never larger than the picture,
    so nothing is shrunk and no antialiasing is needed.

    Args:
        scale: smallest and largest share of the area, above 0, at most 1.
        ratio: smallest and largest width / height.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        height, width = pictures.shape[2:]
        boxes = drawn_boxes(draws, "resized_crop", (height, width), self.scale, self.ratio)
        rows = stretched(boxes.top, boxes.height, height)
        columns = stretched(boxes.left, boxes.width, width)
        return in_parts(resampled, pictures, rows, columns)


def stretched(start: Tensor, length: Tensor, goal: int) -> Tensor:
    """Where the centres of `goal` pixels lie when they cover a part of a line: int64 [batch, goal], in 1/256 pixel, inside the part."""
    centres = 2 * torch.arange(goal, device=start.device) + 1
    places = torch.div(centres * length[:, None] * PARTS, 2 * goal, rounding_mode="floor") - PARTS // 2
    return torch.minimum(places.clamp(min=0), (length[:, None] - 1) * PARTS) + start[:, None] * PARTS


def resampled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values at rows and columns in 1/256 pixel, inside the picture: int64 [batch, height], [batch, width]."""
    height, width = pictures.shape[2:]
    row, column = rows >> 8, columns >> 8
    below, right = (row + 1).clamp(max=height - 1), (column + 1).clamp(max=width - 1)
    down = (rows & 255).to(torch.float32)[:, None, :, None] * (1 / PARTS)
    across = (columns & 255).to(torch.float32)[:, None, None, :] * (1 / PARTS)
    values = _blended(take_rows(pictures, row), take_rows(pictures, below), down)
    return as_pictures(_blended(take_columns(values, column), take_columns(values, right), across), pictures.dtype)


def _blended(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """first + (second - first) weight, in float32."""
    first = first.to(torch.float32)
    return (second.to(torch.float32) - first).mul_(weight).add_(first)


@dataclass(frozen=True)
class Rotation:
    """Turns by a uniform angle about the centre, bilinear; what comes from beyond an edge is mirrored, so there are no black corners.

    Args:
        degrees: largest angle to either side.
    """

    degrees: float

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        return in_parts(rotated, pictures, draws.between("rotation", -self.degrees, self.degrees))


def rotated(pictures: Tensor, degrees: Tensor) -> Tensor:
    """Bilinear, with mirrored edges; float64 [batch] of angles, counter-clockwise."""
    height, width = pictures.shape[2:]
    x, y = source_positions(rotation_matrices(degrees), height, width)
    x, y = ((place + FINE // PARTS // 2 >> 8).int() for place in (x, y))  # in 1/256 pixel
    across, down = ((place & 255).to(torch.float32)[:, None] * (1 / PARTS) for place in (x, y))
    column, row = x >> 8, y >> 8
    left, right = _mirrored(column, width), _mirrored(column + 1, width)
    above, below = _mirrored(row, height) * width, _mirrored(row + 1, height) * width
    upper = _blended(take_pixels(pictures, above + left), take_pixels(pictures, above + right), across)
    lower = _blended(take_pixels(pictures, below + left), take_pixels(pictures, below + right), across)
    return as_pictures(_blended(upper, lower, down), pictures.dtype)


def _mirrored(positions: Tensor, length: int) -> Tensor:
    """`reflected`; where a narrow picture is left behind by more than its own length, its edge pixel goes on."""
    return reflected(positions, length).clamp(0, length - 1)


def take_pixels(pictures: Tensor, places: Tensor) -> Tensor:
    """Pixels by their number row * width + column, the same in all channels: int [batch, rows, columns]."""
    batch, channels, height, width = pictures.shape
    flat = pictures.reshape(batch, channels, height * width)
    return flat.gather(2, places.flatten(1).long()[:, None].expand(-1, channels, -1)).view(batch, channels, *places.shape[1:])


def rotation_matrices(degrees: Tensor) -> Tensor:
    """float64 [batch, 2, 3]: from an output pixel's offset from the centre (x to the right, y down) to where it comes from."""
    angle = degrees * (math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)


def source_positions(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """int64 [batch, height, width] in 1/65536 pixel: x and y of where each output pixel comes from.

    Args:
        matrices: float64 [batch, 2, 3], from offsets from the picture's centre to such offsets.
        height, width: of the pictures.
    """
    fine = (matrices * FINE).round().long()[..., None, None]
    x = 2 * torch.arange(width, device=matrices.device) - (width - 1)  # twice the offset, which is a whole number
    y = (2 * torch.arange(height, device=matrices.device) - (height - 1))[:, None]
    columns, rows = ((fine[:, axis, 0] * x + fine[:, axis, 1] * y >> 1) + fine[:, axis, 2] for axis in (0, 1))
    return columns + (width - 1) * (FINE // 2), rows + (height - 1) * (FINE // 2)
