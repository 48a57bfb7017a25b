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
    shortened = (_largest(row, top) for row in rows)
    if form == "jsonl":
        for row in shortened:
            yield json.dumps(row, ensure_ascii=False)
        return
    names, waiting = None, []
    for row in shortened:
        if names is None and "error" in row:
            waiting.append(row)
            continue
        if names is None:
            names = _header(row)
            yield _csv([*names, "error"])
            for earlier in waiting:
                yield _csv(_cells(earlier, names))
        yield _csv(_cells(row, names))
    if names is None and waiting:
        yield _csv(["input", "error"])
        for row in waiting:
            yield _csv([row["input"], row["error"]])


def _largest(row: Mapping[str, Any], top: int | None) -> Mapping[str, Any]:
    if top is None or "probabilities" not in row:
        return row
    kept = sorted(row["probabilities"].items(), key=lambda entry: -entry[1])[:top]
    return {**row, "probabilities": dict(kept)}


def _header(row: Mapping[str, Any]) -> list[str]:
    said = [key for key in row if key not in ("probabilities", "predictions")]
    return [*said, *(row.get("probabilities") or row.get("predictions") or {})]


def _cells(row: Mapping[str, Any], names: list[str]) -> list[Any]:
    values = {**(row.get("probabilities") or row.get("predictions") or {})}
    said = {key: _SEVERAL.join(value) if isinstance(value, list) else value for key, value in row.items() if not isinstance(value, dict)}
    own = [name for name in ("input", "class", "classes", "probability") if name in names[:3]]
    return [*(said.get(name, "") for name in own), *(values.get(name, "") for name in names[len(own) :]), row.get("error", "")]


def _csv(cells: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()
