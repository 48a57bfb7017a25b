"""`images:FOLDER`: pictures in class folders, in train/val/test folders of class folders, or listed in a CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from transfuse.core.types import DataParts, DataRequest
from transfuse.data.decode import is_picture_name
from transfuse.data.labels import Labels, natural, read_names
from transfuse.data.locate import existing, existing_folder, inside, visible_files, visible_folders
from transfuse.data.manifest import SPLITS, read_manifest
from transfuse.data.picture_files import Entry, look_at
from transfuse.errors import DataError

LIST_NAME = "labels.csv"


def catalog() -> dict[str, str]:
    """The shapes of the name."""
    return {
        "FOLDER": "class folders of pictures; or train, val and test folders of class folders; or pictures and labels.csv",
        "FILE.csv": "columns path, label and optionally split; several labels separated by ';', or numbers for regression",
    }


def open_data(name: str, request: DataRequest) -> DataParts:
    """Reads pictures of any size and mode; hidden files are ignored, class names sorted (numbers by value).

    Args:
        name: path of a folder or of a CSV file.
        request: gives task, picture size, and what to do with unreadable files.

    Raises:
        DataError: missing or empty folder, unclear structure, unreadable files (named).
    """
    path = existing(name, "images")
    where = f"images:{name}"
    notes: list[str] = []
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise DataError("neither a folder nor a CSV file", where=where, fix=f"give the folder: images:{path.parent}")
        entries, classes = read_manifest(path, path.parent), None
    elif (path / LIST_NAME).is_file():
        entries, classes = read_manifest(path / LIST_NAME, path), None
        notes.append(f"labels are taken from {LIST_NAME}")
    else:
        entries = _walk(existing_folder(name, "images"), where, notes)
        classes = natural([entry.label for entry in entries if entry.label])
        if request.task not in ("auto", "classification") and classes:
            raise DataError(
                f"class folders can't hold {request.task} labels", where=where, fix=f"list the pictures in a {LIST_NAME}: path,label"
            )
    return _parts(entries, classes, request, where, notes)


def _parts(entries: list[Entry], classes: list[str] | None, request: DataRequest, where: str, notes: list[str]) -> DataParts:
    pictures = look_at(entries, request, where)
    texts = {part: [pictures.entries[row].label for row in pictures.rows(part)] for part in ("train", "val", "test", "unlabelled")}
    texts["unlabelled"] = [""] * len(texts["unlabelled"])
    with inside(where):
        labels = read_names(texts, request.task) if classes is None else _labels_of_folders(texts, classes)
    samples = {part: pictures.samples(part, labels.parts[part]) for part in texts}
    train = samples["train"] or samples["unlabelled"]
    if samples["train"] is None and (samples["val"] is not None or samples["test"] is not None):
        raise DataError("there are validation or test pictures, but none to train on", where=where)
    assert train is not None  # look_at refuses a source without any picture
    return DataParts(
        train=train,
        val=samples["val"],
        test=samples["test"],
        unlabelled=samples["unlabelled"] if samples["train"] is not None else None,
        task=labels.task,
        modality="image",
        classes=labels.classes,
        targets=labels.targets,
        notes=notes + pictures.notes + labels.notes,
    )


def _labels_of_folders(texts: Mapping[str, Sequence[str]], classes: list[str]) -> Labels:
    """Class folders' names taken whole: what separates names in a list (`;`) or looks like a number means nothing in them."""
    number = {name: place for place, name in enumerate(classes)}
    parts = {part: torch.tensor([number.get(name, -1) for name in names], dtype=torch.int64) for part, names in texts.items()}
    return Labels("classification", parts, classes)


def _walk(root: Path, where: str, notes: list[str]) -> list[Entry]:
    folders = visible_folders(root)
    splits = {folder: SPLITS[folder.name.lower()] for folder in folders if folder.name.lower() in SPLITS}
    if "train" in splits.values() and any(visible_folders(folder) for folder, part in splits.items() if part == "train"):
        others = [folder.name for folder in folders if folder not in splits]
        if others:
            notes.append(f"folders beside train are not looked at: {', '.join(others)}")
        parts = sorted(splits.values())
        if len(set(parts)) < len(parts):
            raise DataError(f"two folders for one part: {', '.join(folder.name for folder in splits)}", where=where, fix="keep one of each")
        found = [entry for folder, part in splits.items() for entry in _split_folder(folder, part, root, notes)]
    elif splits and len(splits) == len(folders):
        fix = "put class folders below train (and val, test), or class folders right here"
        raise DataError(f"{', '.join(folder.name for folder in folders)} hold no class folders to train on", where=where, fix=fix)
    elif folders:
        found = _class_folders(root, "train", root, notes)
    else:
        found = [Entry(path, _id(path, root), "", "unlabelled") for path in visible_files(root) if is_picture_name(path)]
    if not found:
        raise DataError(
            "the folder holds no pictures", where=where, fix="jpg, png, webp, bmp, gif and tiff are read, in one folder per class"
        )
    return found


def _split_folder(folder: Path, part: str, root: Path, notes: list[str]) -> list[Entry]:
    if part == "unlabelled":
        return [Entry(path, _id(path, root), "", part) for path in _pictures_below(folder)]
    found = _class_folders(folder, part, root, notes)
    if not found:
        raise DataError("no class folders with pictures", where=str(folder), fix="remove the folder, or fill it like train")
    return found


def _class_folders(folder: Path, part: str, root: Path, notes: list[str]) -> list[Entry]:
    """Every subfolder is a class, and what lies below it, however deep, belongs to it."""
    loose = [path for path in visible_files(folder) if is_picture_name(path)]
    if loose:
        notes.append(f"{len(loose)} pictures directly in {folder.name} have no class and are left out ({loose[0].name} …)")
    entries = []
    for inner in visible_folders(folder):
        found = [Entry(path, _id(path, root), _text(inner.name), part) for path in _pictures_below(inner)]
        if not found:
            notes.append(f"folder {_id(inner, root)} holds no pictures and is not taken for a class")
        entries += found
    return entries


def _id(path: Path, root: Path) -> str:
    return _text(path.relative_to(root).as_posix())


def _text(name: str) -> str:
    """A file's or folder's name as text that can be written to any file: bytes that are no UTF-8 become \\xNN."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _pictures_below(folder: Path) -> list[Path]:
    found = []
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".") and is_picture_name(Path(name))]
    return sorted(found)
