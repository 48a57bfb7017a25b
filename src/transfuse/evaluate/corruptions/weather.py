"""Weather: snow, frost, fog, and brightness."""

from __future__ import annotations

import numpy as np

from transfuse.core.preprocess import LUMA
from transfuse.evaluate.corruptions.resampling import clipped_zoom, motion_blurred
from transfuse.evaluate.corruptions.scale import Scale


def _grey(pictures: np.ndarray) -> np.ndarray:
    if pictures.shape[1] == 1:
        return pictures
    return (pictures * np.array(LUMA, np.float32)[None, :, None, None]).sum(1, keepdims=True)


def snow(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Flakes smeared downwards over a whitened picture."""
    small = (
        *((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9)),
        *((0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
    )
    large = (
        *((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7)),
        *((0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    )
    mean, std, zoom, threshold, radius, sigma, kept = scale.pick(severity, small, large)
    count, _, height, width = pictures.shape
    layer = (mean + std * random.standard_normal((count, 1, height, width))).astype(np.float32)
    layer = clipped_zoom(layer, max(1.0, zoom * min(1.0, scale.factor)))
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1).astype(np.float32)
    layer = motion_blurred(layer, radius * scale.factor, sigma * scale.factor, random.uniform(-135, -45, size=count))
    white = kept * pictures + (1 - kept) * np.maximum(pictures, _grey(pictures) * 1.5 + 0.5)
    return white + layer + np.rot90(layer, 2, axes=(2, 3))


def frost(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """a x + b frost; the frost is a bright, slightly blue plasma with sharpened ridges, in place of the authors' photographs."""
    small = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    own, covered = scale.pick(severity, small, large)
    texture = plasma(len(pictures), *pictures.shape[2:], decay=1.6, random=random)
    ridges = (1 - np.abs(2 * texture - 1)) ** 2
    if pictures.shape[1] == 3:
        ridges = np.concatenate([0.85 * ridges, 0.93 * ridges, ridges], axis=1)
    return own * pictures + covered * ridges


def fog(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Plasma on top, the range pressed together again so that white stays white."""
    small, large = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
    thickness, decay = scale.pick(severity, small, large)
    most = pictures.max((1, 2, 3), keepdims=True)
    return (pictures + thickness * plasma(len(pictures), *pictures.shape[2:], decay=decay, random=random)) * most / (most + thickness)


def brightness(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """The value of hue, saturation and value, raised; hue and saturation stay."""
    c = scale.pick(severity, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
    value = pictures.max(1, keepdims=True)
    raised = np.minimum(value + c, 1)
    return np.where(value > 0, pictures * (raised / np.maximum(value, 1e-6)), raised)


def plasma(count: int, height: int, width: int, decay: float, random: np.random.Generator) -> np.ndarray:
    """Height maps in 0..1 by the diamond-square algorithm: float32 [count, 1, height, width], each its own.

    Each round halves the step and divides the random part by `decay`. The map's side is the next power of two, as tall as the picture.
    """
    side = 1 << int(np.ceil(np.log2(max(height, width, 2))))
    plane = np.zeros((count, side, side))
    step, wobble = side, 100.0

    def shaken(means: np.ndarray) -> np.ndarray:
        return means / 4 + wobble * random.uniform(-wobble, wobble, means.shape)

    while step >= 2:
        half = step // 2
        corners = plane[:, ::step, ::step]
        sums = corners + np.roll(corners, -1, 1)
        plane[:, half::step, half::step] = shaken(sums + np.roll(sums, -1, 2))
        middles, corners = plane[:, half::step, half::step], plane[:, ::step, ::step]
        above = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        plane[:, ::step, half::step] = shaken(above)
        beside = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        plane[:, half::step, ::step] = shaken(beside)
        step, wobble = half, wobble / decay
    plane -= plane.min((1, 2), keepdims=True)
    plane /= plane.max((1, 2), keepdims=True)
    return plane[:, None, :height, :width].astype(np.float32)
