"""Models: one file = one source of networks, found by its prefix (`timm:resnet50`).

`open_model(source, request)` opens a source string or takes a live module; `save_model` writes what `file:` opens again; `fit_to_classes`
makes output k mean class k of the data. `names()` lists the sources, `catalog()` what can be named in them, `search(words)` finds in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry, did_you_mean
from transfuse.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.core.types import Model, ModelRequest

_NOT_SOURCES = ("classes", "exported", "groups", "live", "rebuild", "saving", "weights")
registry = Registry("transfuse.models", "model source", ModelError, skip=_NOT_SOURCES, nested=False)


def names() -> list[str]:
    """All model sources, plug-ins included."""
    return registry.names()


def open_model(source: str | nn.Module, request: ModelRequest | None = None) -> Model:
    """Opens a model by its source string, or wraps a live module; without a request it is taken as its source has it.

    Raises:
        ModelError: unknown source or name, unreadable file, weights that don't fit.
        MissingExtra: the source's package is not installed.
    """
    if not isinstance(source, str):
        from transfuse.models.live import open_module

        return open_module(source)
    if request is None:
        from transfuse.core.types import ModelRequest as Plain

        request = Plain()
    prefix, colon, name = source.partition(":")
    if not colon or not name:
        raise ModelError(f"'{source}' doesn't say where the model comes from", fix=_suggestion(source))
    if prefix not in registry.names():
        known = ", ".join(f"{known}:" for known in registry.names())
        raise ModelError(f"unknown model source '{prefix}:'{did_you_mean(prefix, registry.names())}", where=source, fix=f"known: {known}")
    return registry.module(prefix).open_model(name, request)


def _suggestion(source: str) -> str:
    word = source.rstrip(":")
    if word in registry.names():
        return f"write {word}:NAME; `transfuse ls models {word}` lists what there is"
    if Path(word).expanduser().exists():
        kind = "run" if Path(word).expanduser().is_dir() else "onnx" if word.endswith(".onnx") else "file"
        return f"write {kind}:{word}"
    for prefix in ("builtin", "torchvision", "timm"):
        try:
            if word in registry.module(prefix).catalog():
                return f"write {prefix}:{word}"
        except MissingExtra:
            continue
    return f"write one of {', '.join(f'{known}:NAME' for known in registry.names())}"


def catalog() -> dict[str, str]:
    """Source string -> one line, parameters included where they are known. Sources whose package is missing say so."""
    lines: dict[str, str] = {}
    for prefix in registry.names():
        try:
            found: Mapping[str, str] = registry.module(prefix).catalog()
        except MissingExtra as missing:
            found = {"NAME": f"{missing.what}: {missing.fix}"}
        lines.update({f"{prefix}:{name}": line for name, line in found.items()})
    return lines


def search(words: str) -> dict[str, str]:
    """The catalogue's entries that have every word in their name or line, whatever the case."""
    wanted = words.lower().split()
    return {name: line for name, line in catalog().items() if all(word in f"{name} {line}".lower() for word in wanted)}


def save_model(model: Model, path: Path, extra: dict[str, Any]) -> None:
    """Writes `path` (.safetensors) and the .json beside it: enough for `file:` to open it again."""
    from transfuse.models.saving import save_model as save

    save(model, path, extra)


def fit_to_classes(model: Model, classes: list[str], mapping: dict[str, int] | list[str] | None, outputs: int | None = None) -> Model:
    """The model with its outputs selected and ordered so that output k is class k of the data."""
    from transfuse.models.classes import fit_to_classes as fit

    return fit(model, classes, mapping, outputs)


def load_weights(module: nn.Module, path: Path) -> None:
    """Puts a file's weights into a live module of the same architecture, as for a student that was given as a module.

    A head that was replaced, or layers that were put into the module (`core.grafts`), are put in again, where the .json beside the file
    tells of them and the module has none.
    """
    from transfuse.core.grafts import grafts_of, regraft
    from transfuse.models.saving import read_sidecar
    from transfuse.models.weights import load_into, read_state

    state: dict[str, Tensor] = read_state(Path(path), trusted=False)
    sidecar = read_sidecar(Path(path))
    if sidecar is not None and not grafts_of(module):
        regraft(module, sidecar.grafts)
    load_into(module, state, str(path))
