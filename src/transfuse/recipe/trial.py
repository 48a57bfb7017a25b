"""One trial of a sweep: a recipe with other values for some of its keys, and which keys and values are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transfuse.core.registry import did_you_mean
from transfuse.errors import RecipeError
from transfuse.recipe.caching import asked_temperatures
from transfuse.recipe.forms import entry_names, method_of
from transfuse.recipe.load import from_values, values_of
from transfuse.recipe.needs import card_of
from transfuse.recipe.schema import DistillRecipe
from transfuse.recipe.space import Entry

_FREE = ("options", "preprocess", "classes")  # blocks whose keys are the model's own
_FIXED = {
    "job": "all trials are distillations",
    "out": "trials lie in the sweep's folder",
    "seeds": "put `seed` into the space instead",
    "cache": "all trials share one cache",
    "samples": "it changes no result",
    "budget": "it changes no result",
    "export": "it changes no result",
    "control": "all trials are compared with the same kind of control",
}
_COMPARABLE = ("data.labels_per_class",)  # of data's keys: those that leave the validation part as it is


def single(recipe: DistillRecipe, changes: Mapping[str, Any]) -> DistillRecipe:
    """The recipe with other values for some keys (`objectives.kd.temperature` -> 2).

    Raises:
        RecipeError: a key that the recipe doesn't have, or a value that doesn't fit; named `space.KEY`.
    """
    values = values_of(recipe)
    for key, value in changes.items():
        _put(values, key, value)
    try:
        changed = from_values(values)
    except RecipeError as error:
        keys = " and ".join(f"space.{key}" for key in changes)
        shown = ", ".join(json.dumps(value, default=str) for value in changes.values())
        raise RecipeError(f"{shown} doesn't fit: {error.what}", where=keys, fix=error.fix) from None
    assert isinstance(changed, DistillRecipe)
    return changed


def refuse_space(recipe: DistillRecipe, space: Mapping[str, Entry]) -> None:
    """Tries every listed value and both ends of every range, one key at a time.

    Args:
        recipe: resolved, so that objectives that `auto` means are known.
        space: as `read_space` gives it.

    Raises:
        RecipeError: the first key that the recipe doesn't have, that may not be tried, or whose value doesn't fit.
    """
    for key, entry in space.items():
        head = key.split(".", maxsplit=1)[0]
        if head in _FIXED or (head == "data" and key not in _COMPARABLE):
            why = _FIXED.get(head, "trials on other data, or another validation part, can't be compared")
            raise RecipeError(f"can't be tried: {why}", where=f"space.{key}", fix="remove it from the space")
        for value in entry if isinstance(entry, list) else [entry["low"], entry["high"]]:
            single(recipe, {key: value})


def temperatures_tried(recipe: DistillRecipe, space: Mapping[str, Entry], top_k: int) -> list[float]:
    """All temperatures at which trials soften teachers of which only the largest logits are kept: the recipe's own and all listed ones.

    Args:
        recipe: with its objectives by name; `refuse_space` found nothing wrong with it.
        space: as `read_space` gives it.
        top_k: how many logits are kept.

    Raises:
        RecipeError: a range of temperatures; the others' sum is kept at those that are known beforehand.
    """
    found = set(_temperatures(recipe))
    for key, entry in space.items():
        if key.split(".", maxsplit=1)[0] != "objectives":
            continue
        listed = isinstance(entry, list)
        values = entry if listed else [entry["low"], entry["high"]]
        asked = [_temperatures(single(recipe, {key: value})) for value in values]
        if not listed and asked[0] != asked[1]:
            what = f"is a range, and of a teacher the cache keeps the {top_k} largest logits and the others' sum at known temperatures"
            raise RecipeError(what, where=f"space.{key}", fix="list the temperatures ([1, 2, 4]), or keep all logits: cache.top_k=null")
        found.update(*asked)
    return sorted(found)


def _temperatures(recipe: DistillRecipe) -> list[float]:
    assert isinstance(recipe.objectives, list)
    blocks = [block.model_dump() for block in recipe.objectives]
    return asked_temperatures(blocks, [card_of(block["name"], block["method"]) for block in blocks])


def whole_numbers(recipe: DistillRecipe, space: Mapping[str, Entry]) -> set[str]:
    """Keys of ranges from which only whole numbers are drawn: ends are whole, and a whole step is given or the recipe takes no fraction."""
    found = set()
    for key, entry in space.items():
        if isinstance(entry, list) or not all(isinstance(entry.get(name) or 0, int) for name in ("low", "high", "step")):
            continue
        try:
            single(recipe, {key: entry["low"] + (entry["high"] - entry["low"]) * 0.5**0.5})
        except RecipeError:
            found.add(key)
        else:
            found |= {key} if entry.get("step") else set()
    return found


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets one key; blocks on the way have to be there."""
    parts = key.split(".")
    if parts[0] == "teacher":
        parts = ["teachers", *parts]
    block: Any = values
    for index, part in enumerate(parts):
        if isinstance(block, list):
            block = _entry(block, part, key)
        elif not isinstance(block, dict) or (part not in block and not _free(parts[:index])):
            known = list(block) if isinstance(block, dict) else []
            near = did_you_mean(part, known)
            listed = f"known: {', '.join(map(str, known))}" if known else "there are no keys below it"
            raise RecipeError(f"the recipe has no key '{key}'{near}", where=f"space.{key}", fix=listed)
        elif index == len(parts) - 1:
            block[part] = value
        else:
            block = block[part]


def _free(above: list[str]) -> bool:
    return bool(above) and above[-1] in _FREE


def _entry(items: list[Any], name: str, key: str) -> dict[str, Any]:
    """The settings of the objective of this name; opened where it is written as a name alone."""
    names = entry_names(method_of(item) for item in items)
    if name not in names:
        known = ", ".join(str(found) for found in names)
        what = f"the recipe has no objective '{name}'{did_you_mean(name, [str(found) for found in names])}"
        raise RecipeError(what, where=f"space.{key}", fix=f"add it to objectives first; known: {known}")
    index = names.index(name)
    method = str(method_of(items[index]))
    if isinstance(items[index], str):
        items[index] = {method: {}}
    return items[index][method]
