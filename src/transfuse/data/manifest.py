"""A CSV file that lists pictures: columns path and label, and split where the list itself says what is kept apart."""

from __future__ import annotations

import csv
from pathlib import Path

from transfuse.core.registry import did_you_mean
from transfuse.data.picture_files import Entry
from transfuse.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}
_COLUMNS = ("path", "label", "split")


def read_manifest(path: Path, root: Path) -> list[Entry]:
    """Entries in the file's order; paths are relative to `root`, labels are left as text.

    Raises:
        DataError: no such columns, an unknown split, an empty or repeated path; names the line.
    """
    lines = _lines(path)
    if not lines:
        raise DataError("the file is empty", where=str(path), fix="give a first line path,label")
    header = [name.strip().lower() for name in lines[0][1]]
    for name in ("path", "label"):
        if name not in header:
            raise DataError(
                f"no column '{name}' among {header}{did_you_mean(name, header)}", where=str(path), fix="name the columns path,label[,split]"
            )
    place = {name: header.index(name) for name in _COLUMNS if name in header}
    entries, seen = [], {}
    for number, cells in lines[1:]:
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise DataError(f"{len(cells)} cells under {len(header)} columns", where=where, fix='quote what holds a comma: "a,b"')
        values = {name: cells[column].strip() for name, column in place.items()}
        if not values["path"]:
            raise DataError("the path is empty", where=where)
        if values["path"] in seen:
            raise DataError(f"'{values['path']}' is listed before, on line {seen[values['path']]}", where=where, fix="keep one of the two")
        seen[values["path"]] = number
        entries.append(Entry(root / values["path"], values["path"], values["label"], _part(values, where)))
    if not entries:
        raise DataError("lists no pictures", where=str(path))
    return entries


def _part(values: dict[str, str], where: str) -> str:
    if "split" not in values:
        return "train"
    part = SPLITS.get(values["split"].lower())
    if part is None:
        hint = did_you_mean(values["split"].lower(), SPLITS)
        raise DataError(f"split is '{values['split']}'{hint}", where=where, fix="train, val, test or unlabelled")
    return part


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank; the separator is what the first line uses."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
            first = file.readline()
            file.seek(0)
            separator = next((mark for mark in (",", "\t", ";") if mark in first), ",")
            reader = csv.reader(file, delimiter=separator, strict=True)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=str(path), fix="save the file as UTF-8") from error
    except (csv.Error, OSError) as error:
        raise DataError(f"can't be read: {error}", where=str(path)) from error
