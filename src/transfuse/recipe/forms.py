"""Short forms of a recipe opened into the one form that overrides and messages know; line numbers move along."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transfuse.errors import RecipeError
from transfuse.recipe.reading import Document, Key


def plain(value: Any) -> Any:
    """A deep copy with what Python callers write made plain: tuples to lists, paths to text."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def open_up(document: Document) -> None:
    """`teacher: X` -> `teachers: {teacher: X}`; `objectives: kd` or a mapping of objectives -> a list, in place.

    Raises:
        RecipeError: `teacher` and `teachers` are both given.
    """
    values = document.values
    if "teacher" in values:
        if "teachers" in values:
            raise RecipeError("`teacher` and `teachers` are both given", where=document.where(("teacher",)) or None, fix="keep one")
        values["teachers"] = {"teacher": values.pop("teacher")}
        _move(document, ("teacher",), ("teachers", "teacher"))
    listed = values.get("objectives")
    if isinstance(listed, str) and listed != "auto":
        values["objectives"] = [listed]
    elif isinstance(listed, dict):
        values["objectives"] = [{name: settings} for name, settings in listed.items()]
        for index, name in enumerate(listed):
            _move(document, ("objectives", name), ("objectives", index, name))


def _move(document: Document, old: Key, new: Key) -> None:
    for key in [key for key in document.lines if key[: len(old)] == old]:
        line = document.lines.pop(key)
        document.lines[(*new, *key[len(old) :])] = line
    for length in range(1, len(new)):
        if new in document.lines:
            document.lines.setdefault(new[:length], document.lines[new])


def method_of(item: Any) -> str | None:
    """The method that an entry of `objectives` names; None where it isn't `name` or `{name: settings}`."""
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and len(item) == 1:
        return str(next(iter(item)))
    return None


def entry_names(methods: Iterable[str | None]) -> list[str | None]:
    """What entries are called in logs and overrides: a method used twice is fitnet and fitnet_2."""
    counts: dict[str | None, int] = {}
    names = []
    for method in methods:
        counts[method] = counts.get(method, 0) + 1
        names.append(f"{method}_{counts[method]}" if method is not None and counts[method] > 1 else method)
    return names


def display(key: Key, values: dict[str, Any]) -> str:
    """A path as the user says it: objectives by name and not by number, the only teacher without its list."""
    parts = list(key)
    if len(parts) > 1 and parts[0] == "objectives" and isinstance(parts[1], int):
        listed = values.get("objectives")
        names = entry_names(method_of(item) for item in listed) if isinstance(listed, list) else []
        name = names[parts[1]] if parts[1] < len(names) else None
        parts = ["objectives", name, *parts[3:]] if name is not None else [f"objectives[{parts[1]}]", *parts[2:]]
    if len(parts) > 1 and parts[:2] == ["teachers", "teacher"]:
        parts = parts[1:]
    shown = ""
    for part in parts:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part)
    return shown
