"""Torch data sets and loaders -> arrays, read once; what they would do on every access (random transforms) is said to be frozen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from transfuse.core.preprocess import Preprocess
from transfuse.data.decode import as_seen
from transfuse.data.layout import as_array
from transfuse.data.picture_files import MIXED_SIDE
from transfuse.errors import DataError

LARGEST = 8 * 2**30  # bytes of decoded inputs that are read into memory; beyond it, files on disk are the better source


@dataclass
class Contents:
    """What a data set holds: inputs [n, ...], labels [n] or [n, k] or None, class names where it knows them."""

    inputs: np.ndarray
    labels: np.ndarray | None
    classes: list[str] | None = None


def contents(held: Any, part: str, size: int | None, notes: list[str]) -> Contents:
    """Reads a Dataset or the Dataset behind a DataLoader.

    Args:
        held: the object.
        part: train, val, test or unlabelled; for messages.
        size: side at which pictures of different sizes are held; None for 224.
        notes: what is decided is added here.

    Raises:
        DataError: items that are not (input, label), too much for memory, or an exception inside the data set.
    """
    if isinstance(held, DataLoader):
        held = _unwrapped(held, part, notes)
    classes = _classes(held)
    arrays = _stored(held)
    if arrays is None:
        arrays = _items(held, part, size, notes)
    return Contents(*arrays, classes)


def _unwrapped(loader: DataLoader[Any], part: str, notes: list[str]) -> Any:
    notes.append(f"{part}: the DataLoader's data set is used; batches, order and collate function are transfuse's own")
    if isinstance(loader.sampler, SubsetRandomSampler):
        return Subset(loader.dataset, sorted(loader.sampler.indices))
    return loader.dataset


def _classes(data_set: Any) -> list[str] | None:
    names = getattr(data_set, "classes", None)
    if names is None and isinstance(data_set, Subset):
        return _classes(data_set.dataset)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def _stored(data_set: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Whole arrays where the data set keeps them as they are, without going through its items."""
    if isinstance(data_set, Subset):
        stored = _stored(data_set.dataset)
        if stored is None:
            return None
        rows = np.asarray(data_set.indices, dtype=np.int64)
        return stored[0][rows], None if stored[1] is None else stored[1][rows]
    if type(data_set) is TensorDataset:
        if len(data_set.tensors) > 2:
            raise DataError(f"a TensorDataset of {len(data_set.tensors)} tensors", where="data", fix="give TensorDataset(inputs, labels)")
        arrays = [as_array(tensor, "data") for tensor in data_set.tensors]
        return arrays[0], arrays[1] if len(arrays) == 2 else None
    known = type(data_set).__module__.startswith("torchvision.datasets")
    plain = getattr(data_set, "transform", None) is None and getattr(data_set, "target_transform", None) is None
    labels = getattr(data_set, "targets", getattr(data_set, "labels", None))
    if known and plain and labels is not None and isinstance(getattr(data_set, "data", None), (np.ndarray, Tensor)):
        return as_array(data_set.data, "data"), as_array(labels, "labels")
    return None


def _items(data_set: Any, part: str, size: int | None, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(data_set, IterableDataset):
        notes.append(f"{part}: an IterableDataset was read to its end into memory, in the order in which it gives its samples")
        items: Iterable[Any] = data_set
    else:
        items = (data_set[row] for row in range(len(data_set)))
        if len(data_set) and not _same(data_set[0], data_set[0]):
            notes.append(f"{part}: the data set gives other inputs every time (a random transform?): one of each is used; see augment")
    inputs, labels, total = [], [], 0
    for row, item in enumerate(items):
        picture, label = _item(item, f"data, {part}, item {row}")
        total += picture.nbytes
        if total > LARGEST:
            fix = "write the pictures to a folder and use images:FOLDER, which decodes them when they are needed"
            raise DataError(f"more than {LARGEST >> 30} GiB of inputs", where=f"data, {part}", fix=fix)
        inputs.append(picture)
        labels.append(label)
    if not inputs:
        raise DataError("the data set is empty", where=f"data, {part}")
    given = [label is not None for label in labels]
    if any(given) and not all(given):
        raise DataError("some items have a label and some have none", where=f"data, {part}, item {given.index(False)}")
    return _stacked(inputs, part, size, notes), as_array([np.asarray(label) for label in labels], f"{part} labels") if all(given) else None


def _same(first: Any, second: Any) -> bool:
    first, second = (_item(item, "data")[0] for item in (first, second))
    return first.shape == second.shape and bool(np.array_equal(first, second))


def _item(item: Any, where: str) -> tuple[np.ndarray, Any]:
    """Input as an array (pictures of PIL as [height, width(, 3)] uint8) and label, or None."""
    if isinstance(item, (tuple, list)) and len(item) == 2:
        given, label = item
    elif isinstance(item, (Tensor, np.ndarray, Image.Image)):
        given, label = item, None
    else:
        what = f"a dict of {', '.join(map(str, item))}" if isinstance(item, dict) else f"a {type(item).__name__}"
        raise DataError(f"the item is {what}", where=where, fix="let the data set give (input, label)")
    if isinstance(given, Image.Image):
        given = np.asarray(as_seen(given))
    elif not isinstance(given, (Tensor, np.ndarray)):
        raise DataError(f"the input is a {type(given).__name__}", where=where, fix="give tensors, arrays or PIL images")
    return as_array(given, where), label.detach().cpu().numpy() if isinstance(label, Tensor) else label


def _stacked(inputs: Sequence[np.ndarray], part: str, size: int | None, notes: list[str]) -> np.ndarray:
    shapes = {array.shape for array in inputs}
    if len(shapes) == 1:
        return np.stack(inputs)
    pictures = all(array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) for array in inputs)
    if not pictures:
        odd = next(row for row, array in enumerate(inputs) if array.shape != inputs[0].shape)
        raise DataError(
            f"shape {inputs[odd].shape}, item 0 has {inputs[0].shape}", where=f"data, {part}, item {odd}", fix="give inputs of one shape"
        )
    grey = all(array.ndim == 2 for array in inputs)
    sizes = {shape[:2] for shape in shapes}
    if len(sizes) > 1:
        side = size or MIXED_SIDE
        notes.append(f"{part}: pictures differ in size: held at {side}x{side}, shorter side resized and centre cut out")
        fit = Preprocess(size=(side, side), channels=1 if grey else 3, resize="short_side")
    else:
        fit = Preprocess(channels=1 if grey else 3)
    stacked = chain.from_iterable(fit.exact_image(Image.fromarray(array)).numpy().astype(np.uint8) for array in inputs)
    return np.stack(list(stacked))
