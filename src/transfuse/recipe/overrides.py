"""`a.b=value` on top of a recipe's values: blocks made on the way, objectives addressed by name, short forms opened."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transfuse import objectives
from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError
from transfuse.recipe.forms import entry_names, method_of, open_up
from transfuse.recipe.reading import Document, Key, read_value

_METHODS = ("optimizer", "schedule", "weight", "head", "init", "policy")  # blocks that name one method: setting another one replaces it
_SOURCES = (("data",), ("source",), ("target",), ("student",), ("model",), ("base",))  # where text is short for {source: text}
_EXAMPLE = "for example: train.epochs=10"


def apply(document: Document, overrides: Sequence[str]) -> None:
    """Sets each override in turn, in place; a later one wins over an earlier one.

    Raises:
        RecipeError: no `=`, an empty key, a value that is no YAML, a way through a value that has no keys.
    """
    for text in overrides:
        key, separator, value = text.partition("=")
        key = key.strip()
        parts = key.split(".")
        if not separator:
            raise RecipeError(f"'{text}' sets nothing: an override is key=value", fix=_EXAMPLE)
        if not all(parts):
            raise RecipeError(f"'{text}' has an empty key" if not key else f"'{key}' has an empty part", fix=_EXAMPLE)
        _set(document, parts, read_value(value, f"override '{text}'"), text)
        open_up(document)  # the value may be a short form itself: objectives=kd


def _set(document: Document, parts: list[str], value: Any, text: str) -> None:
    parts = _teacher_parts(document, parts, text)
    block: Any = document.values
    key: Key = ()
    if parts[0] == "objectives" and len(parts) > 1:
        block, key, parts = _objective(document, parts, text)
    for part, following in pairwise(parts):
        key = (*key, part)
        if block.get(part) is None or _other_method(part, block[part], following):
            _forget(document, key)
            block[part] = {}
            document.overrides.setdefault(key, text)
        block = _inner(block, part, key, text)
    key = (*key, parts[-1])
    _forget(document, key)
    block[parts[-1]] = value
    document.overrides[key] = text


def _forget(document: Document, key: Key) -> None:
    """What is replaced must not be pointed at by messages any more."""
    for marks in (document.lines, document.overrides):
        for old in [old for old in marks if old[: len(key)] == key]:
            del marks[old]


def _teacher_parts(document: Document, parts: list[str], text: str) -> list[str]:
    if parts[0] != "teacher":
        return parts
    named = document.values.get("teachers")
    if isinstance(named, dict) and named and "teacher" not in named:
        ways = ", ".join(f"teachers.{name}" for name in named)
        raise RecipeError("the recipe's teachers have names", where=f"override '{text}'", fix=f"say which one: {ways}")
    return ["teachers", "teacher", *parts[1:]]


def _other_method(part: str, value: Any, following: str) -> bool:
    """Whether `following` is another method than the one a one-method block holds: {adamw: ...} with sgd.lr=0.1."""
    if part not in _METHODS:
        return False
    return following not in value if isinstance(value, dict) else value != following


def _inner(block: dict[str, Any], part: str, key: Key, text: str) -> dict[str, Any]:
    """The block below `part`; text there is a short form and is opened first."""
    value = block[part]
    if isinstance(value, str):
        if part in _METHODS:
            block[part] = {value: {}}
        elif key in _SOURCES or (len(key) == 2 and key[0] in ("teachers", "sources", "models")):
            block[part] = {"source": value}
    if not isinstance(block[part], dict):
        name = ".".join(map(str, key)).replace("teachers.teacher", "teacher")
        shown = "a list" if isinstance(value, list) else repr(value)
        what = f"{name} is {shown}: there are no keys in it to set"
        raise RecipeError(what, where=f"override '{text}'", fix=f"set it whole: {name}=VALUE")
    return block[part]


def _objective(document: Document, parts: list[str], text: str) -> tuple[dict[str, Any], Key, list[str]]:
    """The list entry that `objectives.NAME...` means, the path to it and the rest of the way; added where there is none.

    `auto` keeps its place as the first entry: the task's default terms, of which only one is being changed.
    """
    items: Any = document.values.get("objectives")
    if items is None or items == "auto":
        items = document.values["objectives"] = ["auto"]
    if not isinstance(items, list):
        raise RecipeError(f"objectives is {items!r}, not a list", where=f"override '{text}'")
    names = entry_names(method_of(item) for item in items)
    name = parts[1]
    if name not in names:
        known = sorted({*filter(None, names), *objectives.names()} - {"auto"})
        if name not in known:
            what = f"objectives.{name}: unknown objective{did_you_mean(name, known)}"
            raise RecipeError(what, where=f"override '{text}'", fix=f"known: {', '.join(known)}")
        names.append(name)
        items.append({name: {}})
        document.overrides[("objectives", len(items) - 1)] = text
    index = names.index(name)
    if isinstance(items[index], str):
        items[index] = {items[index]: {}}
    return items[index], ("objectives", index), [str(method_of(items[index])), *parts[2:]]
