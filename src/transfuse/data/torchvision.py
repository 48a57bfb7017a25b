"""`torchvision:NAME@ROOT`: torchvision's named classification sets from files that are already on the disk."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataParts, DataRequest
from transfuse.core.vision import import_torchvision
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.data.data_sets import contents
from transfuse.data.labels import read_labels
from transfuse.data.locate import existing_folder
from transfuse.data.picture_files import Entry, look_at
from transfuse.errors import DataError

_ABSENT = (RuntimeError, FileNotFoundError, OSError)  # what torchvision raises where files are missing or don't have the known checksum
_VALIDATION = ("val", "valid")


def catalog() -> dict[str, str]:
    """Name -> one line, of the common ones; others of torchvision.datasets with one class number per picture open as well."""
    return {
        "CIFAR10@ROOT": "60,000 32x32 colour pictures, 10 classes; ROOT holds cifar-10-batches-py",
        "CIFAR100@ROOT": "60,000 32x32 colour pictures, 100 classes; ROOT holds cifar-100-python",
        "MNIST@ROOT": "70,000 28x28 grey digits; ROOT holds MNIST/raw",
        "FashionMNIST@ROOT": "70,000 28x28 grey pictures of clothes; ROOT holds FashionMNIST/raw",
        "KMNIST@ROOT": "70,000 28x28 grey Japanese characters; ROOT holds KMNIST/raw",
        "SVHN@ROOT": "99,289 32x32 colour house-number digits; ROOT holds train_32x32.mat and test_32x32.mat",
        "STL10@ROOT": "13,000 96x96 colour pictures, 10 classes, and 100,000 without labels; ROOT holds stl10_binary",
        "EuroSAT@ROOT": "27,000 64x64 satellite pictures, 10 classes; ROOT holds eurosat/2750",
    }


def open_data(name: str, request: DataRequest) -> DataParts:
    """Opens a set by its class in torchvision.datasets; nothing is downloaded.

    Args:
        name: NAME@ROOT, ROOT being the folder that torchvision calls root.
        request: gives picture size.

    Raises:
        DataError: unknown name, missing files, or a set whose labels are not one class number per picture.
        MissingExtra: torchvision is not installed.
    """
    short, at, root = name.partition("@")
    where = f"torchvision:{name}"
    if not at:
        raise DataError("no folder after the name", where=where, fix=f"write torchvision:{name}@ROOT, ROOT being the folder with its files")
    constructor = _constructor(short, where)
    folder = existing_folder(root, f"torchvision:{short}@")
    sets = _open(constructor, folder, where)
    if all(_has_files(data_set) for data_set in sets.values()):
        return _from_files(sets, folder, request, where)
    notes: list[str] = []
    arrays = {}
    for part, data_set in sets.items():
        found = contents(data_set, part, request.size, notes)
        arrays[part] = ArrayPart(found.inputs, None if part == "unlabelled" else found.labels, None, f"{part} pictures", f"{part} labels")
    parts = parts_of_arrays(arrays, request, _class_names(sets["train"]))
    parts.notes[:0] = notes
    return parts


def _class_names(data_set: Any) -> list[str] | None:
    """Class names where the set has as many as it has class numbers; some join synonyms in a tuple."""
    names = getattr(data_set, "classes", None)
    return None if names is None else [name if isinstance(name, str) else name[0] for name in names]


def _constructor(short: str, where: str) -> Any:
    datasets = import_torchvision().datasets
    known = [name for name in datasets.__all__ if isinstance(getattr(datasets, name), type)]
    match = {name.lower(): name for name in known}.get(short.lower())
    if match is None:
        raise DataError(f"torchvision has no '{short}'{did_you_mean(short, known)}", where=where, fix="see transfuse ls data")
    return getattr(datasets, match)


def _open(constructor: Any, root: Path, where: str) -> dict[str, Any]:
    """Part -> data set; a set without parts is all training part."""
    accepted = inspect.signature(constructor.__init__).parameters
    required = [
        name for name, parameter in accepted.items() if parameter.default is inspect.Parameter.empty and name not in ("self", "root")
    ]
    required = [name for name in required if accepted[name].kind is not inspect.Parameter.VAR_KEYWORD]
    if required:
        raise DataError(
            f"{constructor.__name__} needs {', '.join(required)}", where=where, fix="open it in Python and give the Dataset as data"
        )
    if "train" in accepted and "split" not in accepted:
        return {"train": _one(constructor, root, where, "train", True), "test": _one(constructor, root, where, "train", False)}
    if "split" in accepted and "train" not in accepted:
        return _by_split(constructor, root, where)
    return {"train": _one(constructor, root, where, None, None)}


def _by_split(constructor: Any, root: Path, where: str) -> dict[str, Any]:
    sets = {}
    for part, names in (("train", ("train", "trainval")), ("val", _VALIDATION), ("test", ("test",)), ("unlabelled", ("unlabeled",))):
        for name in names:
            try:
                sets[part] = _one(constructor, root, where, "split", name)
                break
            except ValueError:  # torchvision's verify_str_arg: the set has no such split
                continue
    if "train" not in sets:
        raise DataError(f"{constructor.__name__} has no training part", where=where)
    return sets


def _one(constructor: Any, root: Path, where: str, key: str | None, value: Any) -> Any:
    settings = {} if key is None else {key: value}
    if "download" in inspect.signature(constructor.__init__).parameters:
        settings["download"] = False
    try:
        return constructor(str(root), **settings)
    except _ABSENT as error:
        first = str(error).strip().splitlines()[0].split(". You can use")[0]
        fix = f"put the files there, or once, with a network: torchvision.datasets.{constructor.__name__}('{root}', download=True)"
        raise DataError(f"{constructor.__name__}'s files are not all in {root}: {first}", where=where, fix=fix) from error


def _has_files(data_set: Any) -> bool:
    samples = getattr(data_set, "samples", None)
    return isinstance(samples, list) and bool(samples) and isinstance(samples[0], tuple) and isinstance(samples[0][0], (str, Path))


def _from_files(sets: dict[str, Any], root: Path, request: DataRequest, where: str) -> DataParts:
    entries = [
        Entry(Path(path), Path(path).resolve().relative_to(root.resolve()).as_posix(), str(label), part)
        for part, data_set in sets.items()
        for path, label in data_set.samples
    ]
    pictures = look_at(entries, request, where)
    numbers = {part: np.array([int(pictures.entries[row].label) for row in pictures.rows(part)]) for part in sets}
    labels = read_labels(numbers, "classification", _class_names(sets["train"]))
    samples = {part: pictures.samples(part, labels.parts.get(part, torch.empty(0, dtype=torch.int64))) for part in sets}
    train = samples["train"]
    if train is None:
        raise DataError("the training part is empty", where=where)
    return DataParts(
        train, "classification", "image", samples.get("val"), samples.get("test"), classes=labels.classes, notes=pictures.notes
    )
