"""Reads one picture file as people see it: upright, 8 bits, grey or RGB, on white; and finds files that can't be read."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from transfuse.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".jp2")
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's own conversion clips these at 255 instead of scaling
_FEW = 16  # below so many pictures, threads cost more than they save

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Found:
    """One readable picture file: hash of its bytes, size as shown, whether it is greyscale."""

    digest: bytes
    height: int
    width: int
    grey: bool


@dataclass(frozen=True)
class Unreadable:
    """One file that is not a whole picture, and why."""

    reason: str


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Maps in order; Pillow decodes outside the interpreter's lock, so threads use all cores."""
    if len(items) < _FEW:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 1)) as pool:
        return list(pool.map(function, items, chunksize=1))


def is_picture_name(path: Path) -> bool:
    """Whether the file's name says that it is a picture."""
    return path.suffix.lower() in EXTENSIONS


def read_picture(path: str | Path) -> Image.Image:
    """Mode L or RGB, EXIF rotation applied, transparency put on white, 16 bits scaled to 8.

    Raises:
        DataError: the file can't be read (any more), named.
    """
    try:
        with Image.open(path) as image:
            return as_seen(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        raise DataError(f"can't be read as a picture: {_reason(error, None)}", where=str(path)) from error


def as_seen(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        image = _eight_bits(image)
    if image.has_transparency_data:
        grey = image.mode == "LA"
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L" if grey else "RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    top = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= top):
        raise ValueError(f"its values run from {low:g} to {high:g}, and {image.mode} pictures are read from 0 to {top:g}")
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))


def examine(path: Path) -> Found | Unreadable:
    """Decodes the whole file once, so that a truncated one is found before training and not in the middle of it."""
    data = None
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            grey = image.mode in ("1", "L", "LA", *_DEEP)
            deep = image.mode in _DEEP
            if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
            image.draft(None, (1, 1))  # JPEG: an eighth of the resolution, which still reads every byte
            image.load()
            if deep:
                _eight_bits(image)
        return Found(hashlib.blake2b(data, digest_size=16).digest(), height, width, grey)
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files
        return Unreadable(_reason(error, data))


def _reason(error: Exception, data: bytes | None) -> str:
    if data == b"":
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        text = data is not None and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in data[:64])
        return "this is text, not a picture" if text else "not a picture in a known format"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__
