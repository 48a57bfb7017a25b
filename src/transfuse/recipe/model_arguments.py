"""Models as people name them on a command line, by path or source, as the recipe's `models.NAME=SOURCE`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from transfuse import models
from transfuse.errors import ModelError

_FILES = (".safetensors", ".pt", ".pth", ".th", ".npz")


def as_recipe(arguments: Sequence[str]) -> list[str]:
    """A recipe file first, where there is one, then overrides; models become `models.NAME=SOURCE`.

    `name=SOURCE` names a model where NAME is no recipe key and SOURCE is a path or has a source's prefix.

    Raises:
        ModelError: what names no model is no key=value either.
    """
    files, overrides, taken = [], [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not os.path.exists(argument):
            named = "." not in key and is_model(value) and key not in ("data", "teacher", "out")
            overrides.append(f"models.{key}={source_of(value)}" if named else argument)
            taken += [key] if named else []
        elif argument.endswith((".yaml", ".yml")):
            files.append(argument)
        elif not is_model(argument):
            fix = "give a run folder, a .safetensors file, or a source such as timm:resnet50.a1_in1k (transfuse ls models)"
            raise ModelError("is neither a folder or file that is there nor a model source", where=argument, fix=fix)
        else:
            name = name_of(argument, taken)
            taken.append(name)
            overrides.append(f"models.{name}={source_of(argument)}")
    return [*files, *overrides]


def is_model(text: str) -> bool:
    """Whether a text names a model: a run folder, a file of weights, or a source string."""
    return text.partition(":")[0] in models.names() or source_of(text) != text


def source_of(text: str) -> str:
    """The source string of a path: `runs/a` -> `run:runs/a`; others as they are, too long ones (which os.path takes) as well."""
    path, _, part = text.rpartition("#")
    if os.path.isdir(os.path.expanduser(text)) or (path and part and os.path.isdir(os.path.expanduser(path))):
        return f"run:{text}"
    if os.path.isfile(os.path.expanduser(text)) and text.endswith(_FILES):
        return f"predictions:{text}" if text.endswith(".npz") else f"file:{text}"
    return text


def name_of(text: str, taken: Sequence[str]) -> str:
    """A short name for a model: the folder's, the file's or the last part of the source, with a number where it is taken."""
    path, hash_sign, part = text.partition(":")[2].partition("#") if text.partition(":")[0] in models.names() else text.partition("#")
    stem = Path(path).name
    for ending in _FILES:
        stem = stem.removesuffix(ending)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{stem}_{part}" if hash_sign else stem).strip("_-")[:60] or "model"
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
