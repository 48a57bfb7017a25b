"""pydantic's errors -> one line per problem, in the user's words: where, which key, what is wrong, what is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError
from transfuse.recipe.forms import display
from transfuse.recipe.reading import Document, Key

_NEEDED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block with keys",
    "model_type": "a block with keys",
    "finite_number": "a finite number",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_RIGHT_KIND = (*_BOUNDS, "too_short", "string_too_short")  # of a union's members, the one whose kind the value has
_WORDS = ("extra_forbidden", "missing")
_LISTED = 12  # known keys worth showing when nothing is near


def under(prefix: Key, error: ValidationError) -> list[InitErrorDetails]:
    """A nested block's errors with its place put in front, to be raised from a validator of the block around it."""
    return [_located(entry, (*prefix, *entry["loc"])) for entry in error.errors(include_url=False)]


def problem(location: Key, message: str, value: Any) -> InitErrorDetails:
    """One error in our own words, to be raised from a validator."""
    return InitErrorDetails(type=PydanticCustomError("value_error", "{text}", {"text": message}), loc=location, input=value)


def raise_all(title: str, problems: list[InitErrorDetails]) -> None:
    """Raises ValidationError if there is any problem."""
    if problems:
        raise ValidationError.from_exception_data(title, problems)


def with_known_keys(error: ValidationError, known: Mapping[str, str | None], accepts_text: bool) -> ValidationError:
    """The same errors; those about a block's own keys also say which keys it has and what they are for.

    Args:
        error: of one block.
        known: the block's keys and their descriptions.
        accepts_text: whether a string is short for the block.
    """
    told = []
    for entry in error.errors(include_url=False):
        extra: dict[str, Any] = {}
        if len(entry["loc"]) == 1 and entry["type"] == "extra_forbidden":
            extra = {"known": list(known)}
        elif len(entry["loc"]) == 1 and entry["type"] == "missing":
            extra = {"about": known.get(str(entry["loc"][0]))}
        elif not entry["loc"] and entry["type"] == "model_type":
            extra = {"accepts_text": accepts_text}
        told.append(_located(entry, entry["loc"], extra))
    return ValidationError.from_exception_data(error.title, told)


def _located(entry: ErrorDetails, location: Key, extra: dict[str, Any] | None = None) -> InitErrorDetails:
    context = {**entry.get("ctx", {}), **(extra or {})}
    text = str(context["error"]) if "error" in context else context.get("text", entry["msg"])
    context = {key: value for key, value in context.items() if key != "error"} | {"text": text}
    return InitErrorDetails(type=PydanticCustomError(entry["type"], "{text}", context), loc=location, input=entry["input"])  # type: ignore[arg-type]


def recipe_error(error: ValidationError, document: Document) -> RecipeError:
    """All problems of a recipe as one error with one line each."""
    groups: dict[Key, list[tuple[Key, ErrorDetails]]] = {}
    for entry in error.errors(include_url=False):
        key, union = _real_place(entry, document.values)
        groups.setdefault(key if union is None else union, []).append((key, entry))
    lines: list[tuple[int, str]] = []
    for entries in groups.values():
        deepest = max(len(key) for key, _ in entries)
        entries = [(key, entry) for key, entry in entries if len(key) == deepest]
        key = entries[0][0]
        text = _sentence([entry for _, entry in entries])
        shown = display(key, document.values)
        lines.append((document.line(key), ": ".join(part for part in (document.where(key), shown, text) if part)))
    return RecipeError("\n".join(dict.fromkeys(line for _, line in sorted(lines, key=lambda found: found[0]))))


def _real_place(entry: ErrorDetails, values: Any) -> tuple[Key, Key | None]:
    """The error's path without the names that pydantic gives to the members of a union, and the path of that union."""
    key: list[str | int] = []
    union: Key | None = None
    last = len(entry["loc"]) - 1
    for index, part in enumerate(entry["loc"]):
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int) and part < len(values)):
            values = values[part]  # type: ignore[index]
        elif isinstance(part, str) and (index < last or entry["type"] not in _WORDS):
            union = tuple(key) if union is None else union
            continue
        key.append(part)
    return tuple(key), union


def _sentence(entries: list[ErrorDetails]) -> str:
    """One sentence for one place; several entries are the members of a union, none of which fits."""
    entry = next((entry for entry in entries if entry["type"] in _RIGHT_KIND), entries[0])
    kind, context, value = entry["type"], entry.get("ctx", {}), entry["input"]
    if kind == "extra_forbidden":
        known = context.get("known", [])
        near = did_you_mean(str(entry["loc"][-1]), known)
        return f"unknown key{near}" if near else f"unknown key; known: {_listed(known)}" if known else "unknown key"
    if kind == "missing":
        return "is missing" + (f": {context['about']}" if context.get("about") else "")
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"must be {word} {_number(context[name])}, got {_number(value)}"
    if kind in ("too_short", "string_too_short"):
        return "is empty" if not value else f"needs at least {context['min_length']} entries"
    needed = list(dict.fromkeys(filter(None, (_needed(entry) for entry in entries))))
    if needed:
        if kind == "literal_error" and len(entries) == 1 and isinstance(value, str):
            options = [option.strip("'\"") for option in needed[0].replace(" or ", ", ").split(", ")]
            return f"'{value}' is none of {needed[0]}{did_you_mean(value, options)}"
        return f"{describe(value)}, {' or '.join(needed)} is needed{_quotes(value, kind)}"
    text = context.get("text", entry["msg"])
    return str(text).removeprefix("Value error, ")


def _needed(entry: ErrorDetails) -> str | None:
    if entry["type"] == "literal_error":
        return entry.get("ctx", {}).get("expected")
    if entry["type"] == "model_type" and entry.get("ctx", {}).get("accepts_text"):
        return "a source (text) or a block with keys"
    return _NEEDED.get(entry["type"])


def _quotes(value: Any, kind: str) -> str:
    if kind == "string_type" and value is not None and not isinstance(value, (list, dict)):
        return "; put it in quotes"
    if isinstance(value, str) and kind in ("float_type", "int_type"):
        try:
            float(value)
        except ValueError:
            return ""
        return "; write it without quotes"
    return ""


def describe(value: Any) -> str:
    """A value and its kind, in words."""
    if value is None:
        return "it is empty (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} is a yes-or-no value"
    if isinstance(value, str):
        return f"'{value}' is text"
    if isinstance(value, (int, float)):
        return f"{_number(value)} is a number"
    if isinstance(value, (list, tuple)):
        return "it is a list"
    if isinstance(value, dict):
        return "it is a block with keys"
    return f"{value} is a {type(value).__name__}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    return ", ".join(words[:_LISTED]) + (", …" if len(words) > _LISTED else "")
