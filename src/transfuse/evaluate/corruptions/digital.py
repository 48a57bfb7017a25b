"""Digital: contrast, elastic deformation, coarse pixels, JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from transfuse.evaluate.corruptions.resampling import bent
from transfuse.evaluate.corruptions.scale import Scale


def contrast(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Each channel drawn together around its mean."""
    c = scale.pick(severity, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
    means = pictures.mean((2, 3), keepdims=True)
    return (pictures - means) * c + means


def elastic_transform(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """A random affine map, then a smooth random displacement; constants are shares of the side."""
    small = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    large = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    height, width = pictures.shape[2:]
    side = min(height, width) * (1 if scale.small else 244 / 224)  # as in the authors' code, whose side is 244
    strength, sigma, affine = (share * side for share in scale.pick(severity, small, large))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    changed = np.empty_like(pictures)
    for number, picture in enumerate(pictures):
        rows, columns = _affine(y, x, affine, random)
        picture = bent(picture, rows, columns)
        down, right = (_smooth(random.uniform(-1, 1, (height, width)), sigma) * strength for _ in range(2))
        changed[number] = bent(picture, y + down, x + right)
    return changed


def _affine(y: np.ndarray, x: np.ndarray, reach: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where to read each pixel so that three points near the centre move by up to `reach`."""
    height, width = y.shape
    centre, arm = np.array([height // 2, width // 2], float), min(height, width) // 3
    points = np.array([centre + arm, centre + np.array([arm, -arm]), centre - arm])
    moved = points + random.uniform(-reach, reach, size=points.shape)
    corners = np.concatenate([moved, np.ones((3, 1))], axis=1)
    back = np.linalg.lstsq(corners, points, rcond=None)[0]  # from where a pixel is to where it was
    places = np.stack([y, x, np.ones_like(y)], axis=-1) @ back
    return places[..., 0], places[..., 1]


def _smooth(field: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(field, sigma, mode="reflect", truncate=3) if sigma else field


def pixelate(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Made smaller and larger again with box filters."""
    share = scale.pick(severity, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))

    def through(image: Image.Image) -> Image.Image:
        size = max(1, int(image.width * share)), max(1, int(image.height * share))
        return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _each(pictures, through)


def jpeg_compression(pictures: np.ndarray, severity: int, scale: Scale, random: np.random.Generator) -> np.ndarray:
    """Through a JPEG file of low quality."""
    quality = scale.pick(severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))

    def through(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(pictures, through)


def _each(pictures: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Through Pillow, one by one, as 8-bit pictures."""
    changed = []
    for picture in np.round(pictures * 255).astype(np.uint8):
        image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
        array = np.asarray(change(image))
        changed.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    return np.stack(changed).astype(np.float32) / 255
