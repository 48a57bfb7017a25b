"""Moving pixels about in whole batches: enlarging the centre, smearing along a line, bending."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates


def clipped_zoom(pictures: np.ndarray, factor: float) -> np.ndarray:
    """The centre, enlarged linearly to the size of the whole: [n, channels, height, width]."""
    height, width = pictures.shape[2:]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    centre = torch.from_numpy(np.ascontiguousarray(pictures[:, :, top : top + rows, left : left + columns]))
    size = (max(height, round(rows * factor)), max(width, round(columns * factor)))
    enlarged = F.interpolate(centre, size=size, mode="bilinear", align_corners=True).numpy()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return enlarged[:, :, top : top + height, left : left + width]


def motion_blurred(pictures: np.ndarray, radius: float, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Each picture smeared along its angle (degrees): weights exp(-i^2 / 2 sigma^2) for i = 0 .. 2 radius, edges repeated."""
    count, _, height, width = pictures.shape
    steps = np.arange(max(1, round(2 * radius + 1)))
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    directions = np.deg2rad(angles)
    every = np.arange(count)[:, None, None]
    blurred = np.zeros_like(pictures)
    for step, weight in zip(steps, weights, strict=True):
        if weight < 1e-4:
            break
        down, right = np.round(step * np.sin(directions)).astype(int), np.round(step * np.cos(directions)).astype(int)
        rows = np.clip(np.arange(height)[None] + down[:, None], 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width)[None] + right[:, None], 0, width - 1)[:, None, :]
        blurred += np.float32(weight) * pictures[every, :, rows, columns].transpose(0, 3, 1, 2)
    return blurred


def bent(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """One picture [channels, height, width] read linearly at other places [height, width], reflected at its edges."""
    return np.stack([map_coordinates(channel, (rows, columns), order=1, mode="mirror") for channel in picture])
