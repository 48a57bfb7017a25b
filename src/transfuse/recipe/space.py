"""The space of a sweep, as people write it: lists of values and ranges by recipe key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from transfuse.core.registry import did_you_mean
from transfuse.recipe.problems import describe, problem, raise_all

Entry = list[Any] | dict[str, Any]
"""values to choose from, or {"low", "high", "log", "step"}"""

_RANGE = ("low", "high", "log", "step")


def read_space(value: Any) -> dict[str, Entry]:
    """`{train: {epochs: [1, 2]}}` or `{train.epochs: [1, 2]}` -> {"train.epochs": [1, 2]}; ranges with all of their keys.

    Raises:
        pydantic.ValidationError: an empty list, a value twice, low >= high, a range on a logarithm that begins at 0 or below.
    """
    if not isinstance(value, dict):
        raise ValueError("space is a block such as {objectives.kd.temperature: [1, 2, 4]}")
    found: dict[str, Entry] = {}
    problems = []
    for key, entry in _flat(value, ""):
        texts = _list_problems(entry) if isinstance(entry, list) else _range_problems(entry)
        problems += [problem((), f"{key}: {text}", value) for text in texts]
        if key in found:
            problems.append(problem((), f"{key}: is there twice", value))
        found[key] = entry if isinstance(entry, list) or texts else {name: entry.get(name) for name in _RANGE if name in entry}
    raise_all("space", problems)
    return found


def _flat(block: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, entry in block.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        inner = isinstance(entry, dict) and entry and not set(entry) & set(_RANGE)
        found += _flat(entry, key) if inner else [(key, entry)]
    return found


def _list_problems(values: list[Any]) -> list[str]:
    if not values:
        return ["the list is empty; give the values to try"]
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    twice = next((text for index, text in enumerate(texts) if text in texts[:index]), None)
    return [f"{twice} is there twice"] if twice is not None else []


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _range_problems(entry: Any) -> list[str]:
    if not isinstance(entry, dict) or not entry:
        return [f"{describe(entry)}, a list of values or {{low: ..., high: ...}} is needed"]
    unknown = [name for name in entry if name not in _RANGE]
    if unknown:
        return [f"unknown key '{unknown[0]}'{did_you_mean(str(unknown[0]), _RANGE)}; a range has: {', '.join(_RANGE)}"]
    missing = [name for name in ("low", "high") if name not in entry]
    if missing:
        return [f"{missing[0]} is missing"]
    wrong = [name for name in ("low", "high") if not _number(entry[name])]
    if wrong:
        return [f"{wrong[0]}: {describe(entry[wrong[0]])}, a number is needed"]
    log, step = entry.get("log", False), entry.get("step")
    found = []
    if entry["low"] >= entry["high"]:
        found.append(f"low must be less than high, and {entry['low']:g} >= {entry['high']:g}")
    if not isinstance(log, bool):
        found.append(f"log: {describe(log)}, true or false is needed")
    elif log and entry["low"] <= 0:
        found.append(f"a range on a logarithm begins above 0, and low is {entry['low']:g}")
    if step is not None and (not _number(step) or step <= 0):
        found.append(f"step: {describe(step)}, a number above 0 is needed")
    elif step is not None and log is True:
        found.append("log and step exclude each other; keep one")
    return found


def grid_size(space: Mapping[str, Entry]) -> int:
    """Number of combinations of the lists."""
    return math.prod(len(entry) for entry in space.values() if isinstance(entry, list))
