"""Standard corruptions of pictures in five severities: noise, blur, weather and digital (Hendrycks and Dietterich, 2019, ICLR).

The definitions are those of ImageNet-C, and of CIFAR-10-C for small pictures (https://arxiv.org/abs/1903.12261,
https://github.com/hendrycks/robustness): pictures whose shorter side is below 96 pixels get the constants of CIFAR-10-C, others those
of ImageNet-C; radii and shifts in pixels are multiplied by side / 32 (at least 1) and side / 224. Pictures are corrupted as 8-bit values
at the size at which the data hold them, and rounded to 8 bits again, as in a file.

Deviations from the authors' code: the arithmetic is numpy's and scipy's in place of OpenCV's, scikit-image's and ImageMagick's; motion
blur is a one-sided Gaussian line, as ImageMagick's; frost is a generated texture, because the original needs six photographs; grey
pictures are corrupted as one channel. Random numbers are functions of (seed, corruption, severity, position in the split), so every model
sees the same pictures, and so does every later evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from transfuse.core.registry import did_you_mean
from transfuse.core.seeds import derive
from transfuse.errors import RecipeError
from transfuse.evaluate.corruptions import blur, digital, noise, weather
from transfuse.evaluate.corruptions.scale import Scale

Corruption = Callable[[np.ndarray, int, Scale, np.random.Generator], np.ndarray]
SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 64  # pictures that share one stream of random numbers
FAMILIES: dict[str, dict[str, Corruption]] = {
    "noise": {"gaussian_noise": noise.gaussian_noise, "shot_noise": noise.shot_noise, "impulse_noise": noise.impulse_noise},
    "blur": {
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
    },
    "weather": {"snow": weather.snow, "frost": weather.frost, "fog": weather.fog, "brightness": weather.brightness},
    "digital": {
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
    },
}
_ALL = {name: function for family in FAMILIES.values() for name, function in family.items()}


def names() -> list[str]:
    """All corruptions, in the order of the paper."""
    return list(_ALL)


def chosen(asked: Sequence[str]) -> list[str]:
    """The corruptions that names of corruptions and families mean, each once, in the order of the paper.

    Raises:
        RecipeError: there is no such corruption.
    """
    wanted: set[str] = set()
    for word in asked:
        if word not in _ALL and word not in FAMILIES:
            known = [*FAMILIES, *_ALL]
            raise RecipeError(f"unknown corruption '{word}'{did_you_mean(word, known)}", "robustness", f"known: {', '.join(known)}")
        wanted |= set(FAMILIES.get(word, [word]))
    return [name for name in _ALL if name in wanted]


def constants(height: int, width: int) -> str:
    """Which definition pictures of this size get, in words."""
    scale = Scale.of(height, width)
    source = "CIFAR-10-C" if scale.small else "ImageNet-C"
    lengths = "" if scale.factor == 1 else f", lengths times {scale.factor:.3g}"
    return f"{source}'s constants{lengths} ({height}x{width} pixels)"


def corrupt(pictures: np.ndarray, name: str, severity: int, seed: int = 0, chunk: int = 0) -> np.ndarray:
    """Corrupts up to a chunk of pictures.

    Args:
        pictures: uint8 [n, channels, height, width], n at most `CHUNK`.
        name: which corruption.
        severity: 1 to 5.
        seed: of the random numbers.
        chunk: which chunk of the split this is.

    Returns:
        uint8, the same shape.
    """
    random = np.random.default_rng(derive(seed, "corruption", name, severity, chunk))
    scale = Scale.of(pictures.shape[2], pictures.shape[3])
    changed = _ALL[name](pictures.astype(np.float32) / 255, severity - 1, scale, random)
    return np.round(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def chunks(count: int) -> Iterator[tuple[int, int, int]]:
    """(number, first, behind the last) of every chunk of a split."""
    for number, start in enumerate(range(0, count, CHUNK)):
        yield number, start, min(start + CHUNK, count)
