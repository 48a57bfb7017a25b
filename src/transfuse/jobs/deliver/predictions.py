"""Writes predictions as they come: a JSON object or a CSV row per input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfuse.errors import RunError

_SEVERAL = ";"  # between the names in one cell, as in lists of labels


@contextmanager
def destination(out: str | None, write: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Where lines go: a new file, or `write`. What was written stays when the work is interrupted.

    Raises:
        RunError: the file is there already, or can't be written.
    """
    if out is None:
        yield write
        return
    try:
        with open(Path(out).expanduser(), "x", encoding="utf-8") as file:
            yield lambda text: _put(file, text)
    except FileExistsError:
        raise RunError("is there already", where=out, fix="name another file, or delete it first") from None
    except OSError as error:
        raise RunError(f"can't be written: {error.strerror or error}", where=out, fix="name another file") from error


def _put(file: Any, text: str) -> None:
    file.write(text + "\n")


def lines(rows: Iterable[Mapping[str, Any]], form: str, top: int | None = None) -> Iterator[str]:
    """One line of text per row; for CSV a header first, for which errors that come before the first answer wait.

    Args:
        rows: as `jobs.predict.answers` gives them.
        form: "jsonl" or "csv".
        top: keep only so many of the largest probabilities; a CSV keeps all columns and leaves the others empty.
    """
    if form == "jsonl":
        for row in rows:
            yield json.dumps(_largest(row, top), ensure_ascii=False)
        return
    header: tuple[list[str], list[str]] | None = None
    waiting = []
    for row in rows:
        if header is None and "error" in row:
            waiting.append(row)
            continue
        if header is None:
            header = _header(row)
            yield _csv([*header[0], *header[1], "error"])
            for earlier in waiting:
                yield _csv(_cells(earlier, *header))
        yield _csv(_cells(_largest(row, top), *header))
    if header is None and waiting:
        yield _csv(["input", "error"])
        for row in waiting:
            yield _csv([row["input"], row["error"]])


def _largest(row: Mapping[str, Any], top: int | None) -> Mapping[str, Any]:
    if top is None or "probabilities" not in row:
        return row
    kept = sorted(row["probabilities"].items(), key=lambda entry: -entry[1])[:top]
    return {**row, "probabilities": dict(kept)}


def _header(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(columns of the row itself, columns of its values), apart because a class or a target may have any name, "class" too."""
    return [key for key, value in row.items() if not isinstance(value, dict)], [*_values(row)]


def _values(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("probabilities") or row.get("predictions") or {}


def _cells(row: Mapping[str, Any], own: list[str], values: list[str]) -> list[Any]:
    said = [_SEVERAL.join(row[key]) if isinstance(row.get(key), list) else row.get(key, "") for key in own]
    return [*said, *(_values(row).get(name, "") for name in values), row.get("error", "")]


def _csv(cells: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()
