"""`idx:FOLDER`: pictures and labels in the format of MNIST (also Fashion-MNIST, EMNIST, KMNIST), gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from transfuse.core.types import DataParts, DataRequest
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.data.locate import existing_folder, visible_files
from transfuse.errors import DataError

_UNSIGNED_BYTE = 0x08
_PLACES = (
    "",
    "raw",
    "MNIST/raw",
    "FashionMNIST/raw",
    "KMNIST/raw",
    "QMNIST/raw",
    "EMNIST/raw",
)  # where torchvision puts them below its root


def catalog() -> dict[str, str]:
    """The shape of the name."""
    return {"FOLDER": "MNIST's files: train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-… for the test part"}


def open_data(name: str, request: DataRequest) -> DataParts:
    """Reads the files under their usual names; without t10k files, test is held out of train.

    Args:
        name: path of the folder, or of torchvision's root above it.
        request: gives picture size.

    Raises:
        DataError: missing or broken files; pictures and labels that differ in number.
    """
    root = existing_folder(name, "idx")
    folder = next((root / place for place in _PLACES if _find(root / place, "train", "images")), None)
    if folder is None:
        raise DataError(
            "no train-images-idx3-ubyte (or .gz) here", where=f"idx:{name}", fix="give the folder that holds MNIST's four files"
        )
    parts = {"train": _part(folder, "train", "train")}
    if _find(folder, "t10k", "images") or _find(folder, "test", "images"):
        prefix = "t10k" if _find(folder, "t10k", "images") else "test"
        parts["test"] = _part(folder, prefix, "test")
    top = max(int(part.labels.max()) for part in parts.values() if part.labels is not None and len(part.labels))
    return parts_of_arrays(parts, request, [str(number) for number in range(top + 1)])


def _find(folder: Path, prefix: str, kind: str) -> Path | None:
    """The one file of this kind; unzipped before gzipped.

    Raises:
        DataError: there are several sets in the folder.
    """
    if not folder.is_dir():
        return None
    rank = 3 if kind == "images" else 1
    endings = [f"{prefix}-{kind}{dot}idx{rank}-ubyte{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    for ending in endings:
        found = [path for path in visible_files(folder) if path.name == ending or path.name.endswith(f"-{ending}")]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(
                f"several sets in one folder: {names}", where=str(folder), fix="keep one set's four files in a folder of its own"
            )
        if found:
            return found[0]
    return None


def _part(folder: Path, prefix: str, part: str) -> ArrayPart:
    images, labels = _find(folder, prefix, "images"), _find(folder, prefix, "labels")
    if images is None or labels is None:
        raise DataError(f"no {prefix}-labels-idx1-ubyte (or .gz) beside the pictures", where=str(folder))
    pixels, numbers = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{len(pixels)} pictures, but {len(numbers)} labels in {labels.name}", where=str(images), fix="take both from one set"
        )
    return ArrayPart(pixels, numbers.astype(np.int64), None, f"{part} pictures", f"{part} labels")


def read_idx(path: Path, rank: int) -> np.ndarray:
    """uint8 array of one idx file: 0, 0, type, rank, then rank big-endian sizes, then the values (http://yann.lecun.com/exdb/mnist/).

    Raises:
        DataError: broken gzip, wrong magic number or rank, or more or fewer bytes than the sizes say.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", where=str(path), fix="download it again") from error
    header = 4 + 4 * rank
    if len(data) < header or data[:4] != bytes([0, 0, _UNSIGNED_BYTE, rank]):
        wanted = f"0000{_UNSIGNED_BYTE:02x}{rank:02x}"
        raise DataError(
            f"begins with {data[:4].hex() or 'nothing'}, not with the magic number {wanted}", where=str(path), fix="download it again"
        )
    sizes = np.frombuffer(data, ">u4", rank, 4).astype(np.int64)
    expected = int(sizes.prod())
    if len(data) - header != expected:
        shape = " x ".join(map(str, sizes))
        raise DataError(f"says {shape} = {expected} values, but holds {len(data) - header}", where=str(path), fix="download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes).copy()
