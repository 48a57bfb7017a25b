"""Finds public test data outside the repository and reads it; the only file that knows where it lies.

The folder is $TRANSFUSE_TEST_DATA, or `shared/data` beside the repository. Nothing of it is part of transfuse: some of the sets state no
licence. Tests reach this module through the fixture `test_data`, which skips where the folder is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from transfuse.data.splits import held_out

VARIABLE = "TRANSFUSE_TEST_DATA"
SHEETS = ("cifar10", "cifar100")


def root() -> Path | None:
    """The folder of test data, or None where there is none."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


def requires_test_data() -> str | None:
    """Why tests on real data have to be skipped, or None where they can run."""
    return None if root() is not None else f"no test data: set {VARIABLE}, or put it at ../shared/data"


def _inside(*parts: str) -> Path:
    folder = root()
    path = folder.joinpath(*parts) if folder is not None else None
    if path is None or not path.exists():
        raise FileNotFoundError(requires_test_data() or f"the test data has no {'/'.join(parts)}")
    return path


def sheet(path: str | Path, n: int, side: int = 32) -> np.ndarray:
    """uint8 [n, side, side, 3]: the first n pictures of an image sheet, row by row."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * columns, side, side, 3)[:n]


def _cifar(name: str) -> dict[str, np.ndarray]:
    folder = _inside(name, "sub10k_2k")
    with np.load(folder / "labels.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = sheet(folder / f"{part}.webp", len(arrays[f"y_{part}"]))
    return arrays


def cifar10() -> dict[str, np.ndarray]:
    """10,000 training and 2,000 test pictures of CIFAR-10: x_train, y_train, x_test, y_test, classes, index_train, index_test."""
    return _cifar("cifar10")


def cifar100() -> dict[str, np.ndarray]:
    """The same of CIFAR-100, with fine_to_coarse, the superclass of each class."""
    return _cifar("cifar100")


def for_choosing(labels: np.ndarray) -> np.ndarray:
    """bool [n]: the half of held-back pictures that choices may look at; the other half is for the report. Stratified, seed 0.

    The published CIFAR-10 networks have seen every training picture, so choosing among them has to happen on pictures held back.
    """
    return held_out(labels, 0.5, 0, "halves")


def write_arrays(dataset: str | dict[str, np.ndarray], out_npz: str | Path) -> Path:
    """Writes a sheet's pictures as a file for `arrays:`; ids are the part and the position in the set's own order.

    Args:
        dataset: "cifar10", "cifar100", or what these functions give.
        out_npz: the file to write.
    """
    if isinstance(dataset, str):
        if dataset not in SHEETS:
            raise ValueError(f"no image sheets of '{dataset}'; known: {', '.join(SHEETS)}")
        dataset = _cifar(dataset)
    arrays = {key: dataset[key] for key in ("x_train", "y_train", "x_test", "y_test", "classes")}
    for part in ("train", "test"):
        arrays[f"ids_{part}"] = np.array([f"{part}/{number}" for number in dataset[f"index_{part}"]])
    out = Path(out_npz)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, **arrays)
    return out


def mnist_folder() -> Path:
    """For `idx:`; all of MNIST."""
    return _inside("mnist")


def fashion_mnist_folder() -> Path:
    """For `idx:`; all of Fashion-MNIST."""
    return _inside("fashion_mnist")


def hymenoptera_folder() -> Path:
    """For `images:`; ants and bees, short side 256, folders train and val."""
    return _inside("hymenoptera", "s256")


def weights(name: str) -> Path:
    """A folder or file of published weights, such as "akamaster_cifar10"."""
    return _inside("weights", name)


def usps() -> dict[str, np.ndarray]:
    """All of USPS at 16x16, in the order of its authors: x_train, y_train, x_test, y_test."""
    with np.load(_inside("usps", "usps_uint8_16x16.npz")) as stored:
        return {key: stored[key] for key in stored.files}
