"""Small real files that several tests of data sources read."""

import zlib

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """picture(path, size=(width, height), mode="RGB", seed=0): writes a random picture and returns its pixels."""

    def write(path, size=(12, 10), mode="RGB", seed=0, **options):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path, **options)
        return pixels

    return write


@pytest.fixture
def class_folders(tmp_path, picture):
    """class_folders({"ants": 10, "bees": 12}): a folder of class folders of random PNG files."""

    def write(counts, root=None, size=(12, 10), mode="RGB"):
        root = root or tmp_path / "photos"
        for name, count in counts.items():
            for number in range(count):
                picture(root / name / f"{number:03}.png", size, mode, seed=zlib.crc32(f"{root.name}/{name}/{number}".encode()))
        return root

    return write
