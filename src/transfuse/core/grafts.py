"""Grafts: layers put into a network, described so that a .json can tell how a shipped network differs from its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from transfuse.core.predictors import Forest, KernelMachine, NearestNeighbours, Scaled
from transfuse.core.tapped import Gathered
from transfuse.core.taps import Tap
from transfuse.errors import ModelError

Place = Literal["before", "after", "instead", "replace"]
# layer -> the constructor's arguments that make it again; what isn't listed here can't be told by a .json
_TOLD: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
    nn.BatchNorm1d: ("num_features",),
    nn.ReLU: (),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Conv1d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"),
    nn.Conv3d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Dropout: ("p",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    Gathered: ("taps", "axes"),
    Scaled: ("width",),
    NearestNeighbours: ("samples", "width", "outputs", "neighbours", "classes"),
    KernelMachine: ("samples", "width", "outputs", "gamma"),
    Forest: ("nodes", "trees", "depth", "outputs", "classes"),
}
_RECORD = "grafts"  # attribute of a network that has some


def graft(network: nn.Module, path: str, place: Place, layers: Sequence[nn.Module]) -> None:
    """Puts layers into a network, in place: before or after the module at a path, or instead of it.

    The module's own path becomes PATH.1 (before) or PATH.0 (after); the layers lie beside it. The network remembers what was done.

    Raises:
        ModelError: there is no such module, or the path is the network itself.
        TypeError: a layer that can't be described.
    """
    record = {"path": path, "place": place, "layers": told(layers)}
    if not path:
        raise ModelError(f"{type(network).__name__} is a single layer, so nothing can be put into it")
    try:
        module = network.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(network).__name__} has no module '{path}'") from error
    grown = nn.Sequential(*layers).train(module.training)
    placed = {"before": nn.Sequential(grown, module), "after": nn.Sequential(module, grown), "instead": grown, "replace": layers[0]}[place]
    placed.training = module.training
    if place in ("instead", "replace"):
        put(network, path, placed)
    else:
        _set(network, path, placed)
    for layer in layers:
        if isinstance(layer, Gathered):
            layer.attach(network)  # now that it is there: a tap may be the layer's own place
    earlier = grafts_of(network)
    if place == "replace":  # of two layers at one place only the later one is there
        earlier = [known for known in (_without(record, path, layers[0]) for record in earlier) if known is not None]
        if any(inside is not None for inside in (_index_inside(known, path) for known in earlier)):
            setattr(network, _RECORD, earlier)
            return
    setattr(network, _RECORD, [*earlier, record])


def put(network: nn.Module, path: str, layer: nn.Module) -> None:
    """Puts a layer in the place of the module at a path, and wherever else that module is registered: under two names it is one layer."""
    module = network.get_submodule(path)
    for twin in [twin for twin, same in network.named_modules(remove_duplicate=False) if same is module]:
        _set(network, twin, layer)


def _set(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _without(record: dict[str, Any], path: str, layer: nn.Module) -> dict[str, Any] | None:
    """A record after a layer was replaced: gone where it told of the layer before, changed where that was one of several."""
    if record["place"] == "replace" and record["path"] == path:
        return None
    index = _index_inside(record, path)
    if index is None:
        return record
    layers = list(record["layers"])
    layers[index] = _described(layer)
    return {**record, "layers": layers}


def _index_inside(record: dict[str, Any], path: str) -> int | None:
    """Which of the layers that a graft put in place of a module lies at a path."""
    number = path.removeprefix(f"{record['path']}.")
    inside = record["place"] == "instead" and number != path and number.isdigit() and int(number) < len(record["layers"])
    return int(number) if inside else None


def grafts_of(network: nn.Module) -> list[dict[str, Any]]:
    """What was put into a network, in order, as a .json holds it; empty for most."""
    found = vars(network).get(_RECORD, [])
    return list(found)


def regraft(network: nn.Module, records: Sequence[dict[str, Any]]) -> None:
    """Does the same to a fresh network of the same architecture; the layers' weights come from elsewhere.

    Raises:
        ModelError: a record that says something else than a graft, or doesn't fit.
    """
    for record in records:
        try:
            layers = made(record["layers"])
            place: Place = record["place"]
            if place not in ("before", "after", "instead", "replace"):
                raise ValueError(f"no place '{place}'")
            graft(network, record["path"], place, layers)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"can't put {record!r} into {type(network).__name__}: {error}") from error


def told(layers: Sequence[nn.Module]) -> list[Any]:
    """Layers as a .json holds them, without their weights.

    Raises:
        TypeError: a layer that can't be described.
    """
    return [_described(layer) for layer in layers]


def made(records: Sequence[Any]) -> list[nn.Module]:
    """Fresh layers from what `told` said.

    Raises:
        KeyError, TypeError, ValueError: it says something else.
    """
    return [_made(*record) for record in records]


def original_tap(path: str, records: Sequence[dict[str, Any]]) -> str:
    """Where a feature is read after grafts that was read at `path` before: the same feature, not what a graft makes of it."""
    return _moved(path, records, through=False)


def grafted_tap(path: str, records: Sequence[dict[str, Any]]) -> str:
    """Where a feature is read that a graft at `path` makes of the one that was read there."""
    return _moved(path, records, through=True)


def _moved(path: str, records: Sequence[dict[str, Any]], through: bool) -> str:
    tap = Tap.parse(path)
    for record in records:
        place, at = record["place"], record["path"]
        if place in ("instead", "replace"):
            continue
        inside = tap.module == at or tap.module.startswith(f"{at}.")
        read_by_graft = tap.module == at and tap.input == (place == "before")
        if inside and read_by_graft and through:  # the graft's own output: what the pair gives, or what the module behind it gets
            tap = replace(tap, module=f"{at}.1" if place == "before" else at)
        elif inside and not (place == "before" and tap.module == at and tap.input):
            tap = replace(tap, module=f"{at}.{1 if place == 'before' else 0}{tap.module[len(at) :]}")
    return f"{tap.module}{f'[{tap.item}]' if tap.item is not None else ''}{'@input' if tap.input else ''}"


def _described(layer: nn.Module) -> list[Any]:
    if type(layer) not in _TOLD:
        known = ", ".join(kind.__name__ for kind in _TOLD)
        raise TypeError(f"{type(layer).__name__} can't be put into a network that is opened again from its file; known: {known}")
    arguments: dict[str, Any] = {name: getattr(layer, name) for name in _TOLD[type(layer)]}
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        arguments["bias"] = layer.bias is not None
    return [type(layer).__name__, {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}]


def _made(name: str, arguments: dict[str, Any]) -> nn.Module:
    kinds = {kind.__name__: kind for kind in _TOLD}
    if name not in kinds:
        raise ValueError(f"no layer '{name}'; known: {', '.join(kinds)}")
    return kinds[name](**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
