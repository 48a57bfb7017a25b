"""Blur: out of focus, through frosted glass, by motion, by zooming."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate, gaussian_filter, gaussian_filter1d

from transfuse.evaluate.corruptions.resampling import clipped_zoom, motion_blurred
from transfuse.evaluate.corruptions.scale import Scale


def _gaussian(pictures: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(pictures, (0, 0, sigma, sigma), mode="nearest", truncate=4)


def _disk(radius: float, alias_blur: float) -> np.ndarray:
    """A disk whose edge is smoothed by a Gaussian of 3x3, or 5x5 for a radius above 8; sums to 1."""
    reach = max(8, int(np.ceil(radius)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    taps = 1 if radius <= 8 else 2
    for axis in (0, 1):
        kernel = gaussian_filter1d(kernel, alias_blur, axis=axis, mode="mirror", radius=taps)
    return kernel / kernel.sum()


def defocus_blur(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """The mean over a disk."""
    small, large = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    radius, alias_blur = scale.pick(severity, small, large)
    kernel = _disk(radius * scale.factor, alias_blur)
    rows, columns = np.nonzero(kernel.sum(1) > 0)[0], np.nonzero(kernel.sum(0) > 0)[0]
    kernel = kernel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    return correlate(pictures, kernel[None, None], mode="mirror")


def glass_blur(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Every pixel takes the value of one nearby, between two Gaussian blurs.

    The authors mean to swap pixels, but their code copies the neighbour (both sides of the assignment are views of one array), and so do
    we; here all pixels look at once, there one after the other, which is the same for steps of one pixel.
    """
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach, times = scale.pick(severity, small, large)
    sigma, reach = sigma * scale.factor, scale.pixels(reach)
    pictures = np.floor(_gaussian(pictures, sigma) * 255) / 255
    count, _, height, width = pictures.shape
    if min(height, width) <= 2 * reach:
        return _gaussian(pictures, sigma)
    rows, columns = np.mgrid[reach : height - reach, reach : width - reach]
    for _ in range(times):
        shifts = random.integers(-reach, reach, size=(2, count, *rows.shape))
        nearby = pictures[np.arange(count)[:, None, None], :, rows + shifts[0], columns + shifts[1]]
        pictures[:, :, reach : height - reach, reach : width - reach] = nearby.transpose(0, 3, 1, 2)
    return _gaussian(pictures, sigma)


def motion_blur(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """A one-sided Gaussian line in a direction of -45 to 45 degrees."""
    small, large = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    radius, sigma = scale.pick(severity, small, large)
    angles = random.uniform(-45, 45, size=len(pictures))
    return motion_blurred(pictures, radius * scale.factor, sigma * scale.factor, angles)


def zoom_blur(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """The mean of the picture and its enlargements in small steps."""
    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    end, step = scale.pick(severity, small, large)
    factors = np.arange(1, end, step)
    return (pictures + sum(clipped_zoom(pictures, float(factor)) for factor in factors)) / (len(factors) + 1)
