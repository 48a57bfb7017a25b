"""Noise of sensors and lines: Gaussian, Poisson (shot), salt and pepper (impulse)."""

from __future__ import annotations

import numpy as np

from transfuse.evaluate.corruptions.scale import Scale


def gaussian_noise(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """x + N(0, c^2)."""
    c = scale.pick(severity, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
    return pictures + c * random.standard_normal(pictures.shape, dtype=np.float32)


def shot_noise(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Poisson(c x) / c: c photons make white."""
    c = scale.pick(severity, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
    return random.poisson(pictures * c).astype(np.float32) / c


def impulse_noise(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """A share c of all values becomes black or white, either with probability 1/2."""
    c = scale.pick(severity, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
    hit, white = random.random(pictures.shape) < c, random.random(pictures.shape) < 0.5
    return np.where(hit, white.astype(np.float32), pictures)
