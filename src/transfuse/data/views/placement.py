"""Where a view's pixels come from: random crops, mirroring, resized crops and rotations of whole batches, without a loop over samples."""

from __future__ import annotations

import torch
from torch import Tensor

from transfuse.data.views.draws import Draws


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
    batch, channels, height, width = pictures.shape
    rows = torch.arange(height, device=pictures.device).expand(batch, height)
    columns = torch.arange(width, device=pictures.device).expand(batch, width)
    if flip:
        columns = torch.where(draws.integers("flip", 2).bool()[:, None], width - 1 - columns, columns)
    if crop:
        rows = reflected(rows + (draws.integers("crop.row", 2 * crop + 1) - crop)[:, None], height)
        columns = reflected(columns + (draws.integers("crop.column", 2 * crop + 1) - crop)[:, None], width)
    which = torch.arange(batch * channels, device=pictures.device).view(batch, channels, 1) * height + rows[:, None, :]
    moved = pictures.reshape(-1, width).index_select(0, which.flatten()).view(batch, channels * height, width)
    return moved.gather(2, columns[:, None, :].expand(-1, channels * height, -1)).view(batch, channels, height, width)
