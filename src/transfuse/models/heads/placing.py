"""Puts a new head into a network in place of the one that it has, checks that it works, and takes it out again where it doesn't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from transfuse.core.grafts import graft
from transfuse.core.last_layers import Head, find_heads, head_at, listed
from transfuse.core.outputs import main_name, named_tensors, run
from transfuse.core.seeds import fresh_weights
from transfuse.core.taps import undisturbed
from transfuse.core.types import Model
from transfuse.errors import ModelError
from transfuse.models.classes import SelectedOutputs

_COUNTS = ("num_classes", "num_labels", "n_classes", "num_outputs")  # where networks note how many outputs they have


class Form(Protocol):
    """A form of head: a class with plain constructor types; `at` is the path of the layer to replace, None: found by a forward pass.

    `build` makes the layers that go in place of `head.layer` and may put others elsewhere into the network; `graft` does both.
    """

    at: str | None

    def build(self, network: nn.Module, head: Head, outputs: int, example: Any) -> None: ...


def put_head(
    network: nn.Module, form: Form, outputs: int | Mapping[str, int], example: Any, seed: int = 0
) -> tuple[tuple[nn.Parameter, ...], list[str]]:
    """Replaces the head of any network, in place.

    With a number, all layers that give as many outputs as the main output's take it: auxiliary heads and twins too; other outputs of a
    network with several stay. With {output's name: number} those outputs get new heads ("0" of a tuple's first, "logits"). Beside the
    main output's, heads are plain layers. A layer that is registered in two places is replaced in both, and new layers share a weight
    where the old ones did; a weight shared with something that is no head (an embedding) is not shared any more.

    Args:
        network: any module; the main output's head is found by what a forward pass does.
        form: what the new head is like.
        outputs: of the new head.
        example: arguments of a forward pass (`core.outputs.run`), two samples or more.
        seed: of the new weights.

    Returns:
        The parameters that start anew, and notes in words.

    Raises:
        ModelError: no head is found (lists the layers that might be meant), or the network doesn't run with the new one; it is then as
            it was.
    """
    known = {id(parameter) for parameter in network.parameters()}
    heads = [head_at(network, form.at, example)] if form.at is not None else find_heads(network, example)
    wanted = _wanted(network, heads, outputs)
    kept = _kept(network)
    try:
        with fresh_weights(seed):
            _replace(network, form, wanted, example)
        _check(network, example, {head.output: count for head, count in wanted if head.main})
    except (ModelError, RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        _restore(network, kept)
        if isinstance(error, ModelError):
            raise
        what = f"{type(network).__name__} doesn't run with the new head: {str(error).splitlines()[0]}"
        raise ModelError(what, fix=f"the layer taken for the head was '{heads[0].path}'; {_others(network)}") from error
    for head, count in wanted:
        _count(network, head, count)
    notes = [f"'{head.path}' is a new head: {head.outputs} -> {count} outputs" for head, count in wanted]
    untouched = [head for head in heads if all(head is not chosen for chosen, _ in wanted)]
    notes += [f"'{head.path}' stays: it makes another output, with {head.outputs} numbers" for head in untouched]
    tied = [head.path for head, _ in wanted if any(parameter is head.layer.weight for parameter in network.parameters())]
    notes += [f"'{path}' shared its weight with another layer, which keeps it" for path in tied]
    return tuple(parameter for parameter in network.parameters() if id(parameter) not in known), notes


def renew_head(model: Model, form: Form, outputs: int, example: Tensor, seed: int) -> list[str]:
    """Replaces an opened model's head, in place, and takes note of what starts anew and of how many outputs there are; see `put_head`.

    A choice among outputs that go goes with them.

    Args:
        model: a network.
        form: what the new head is like.
        outputs: of the new head.
        example: inputs of a forward pass, one sample or more.
        seed: of the new weights.

    Returns:
        Notes in words.

    Raises:
        ModelError: as `put_head`.
    """
    network = model.network
    while isinstance(network, SelectedOutputs):
        network = network.network
    fresh, notes = put_head(network, form, outputs, torch.cat([example, example]), seed)
    model.module, model.fresh = network, fresh
    if "outputs" in model.options:
        model.options["outputs"] = outputs
    return notes


def _wanted(network: nn.Module, heads: Sequence[Head], outputs: int | Mapping[str, int]) -> list[tuple[Head, int]]:
    if isinstance(outputs, int):
        return [(head, outputs) for head in heads if head.outputs == heads[0].outputs]
    names = {head.output for head in heads}
    for name in outputs:
        if name not in names:
            known = ", ".join(repr(name) for name in sorted(names))
            raise ModelError(f"{type(network).__name__} has no output '{name}' that a last layer makes", fix=f"known: {known}")
    return [(head, outputs[head.output]) for head in heads if head.output in outputs]


def _replace(network: nn.Module, form: Form, wanted: Sequence[tuple[Head, int]], example: Any) -> None:
    made: dict[int, nn.Module] = {}
    first = wanted[0][0]
    for head, outputs in wanted:
        if head is first:
            form.build(network, head, outputs, example)
        else:
            twin = made.get(id(head.layer.weight))
            layer = plain_layer(head, outputs)
            if isinstance(twin, type(layer)):  # shared before, shared now
                layer.weight = twin.weight
            graft(network, head.path, "replace", [layer])
        made[id(head.layer.weight)] = network.get_submodule(head.path)


def plain_layer(head: Head, outputs: int, width: int | None = None) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A fresh layer of the head's kind, with a bias where it has one, in its precision and on its device."""
    layer, width = head.layer, width or head.width
    settings: dict[str, Any] = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(width, outputs, **settings)
    kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
    return kind(width, outputs, 1, layer.stride, layer.padding, **settings)  # type: ignore[arg-type]


def _count(network: nn.Module, head: Head, outputs: int) -> None:
    """Notes the new number where the modules around the head, or a configuration of theirs, note the old one."""
    parts = head.path.split(".")
    around = [network.get_submodule(".".join(parts[:length])) for length in range(len(parts))]
    for holder in [held for module in around for held in (module, getattr(module, "config", None)) if held is not None]:
        for name in _COUNTS:
            if getattr(holder, name, None) == head.outputs:
                setattr(holder, name, outputs)


def _check(network: nn.Module, example: Any, counts: Mapping[str, int]) -> None:
    with undisturbed(network):
        tensors = named_tensors(run(network, example))
    for name, count in counts.items():
        sizes = [*tensors[name].shape[1:]] if name in tensors else []
        if sizes and count not in (sizes[0], sizes[-1]):
            what = f"{type(network).__name__} gives {tuple(tensors[name].shape)} where its head has {count} outputs"
            raise ModelError(what, fix=_others(network))
    if not counts and main_name(tensors) is None:
        raise ModelError(f"{type(network).__name__} gives no tensor")


def _others(network: nn.Module) -> str:
    return f"name another with head: {{linear: {{at: PATH}}}}; candidates:{listed(network)}"


_Kept = tuple[list[tuple[nn.Module, dict[str, Any]]], dict[str, Any]]


def _kept(network: nn.Module) -> _Kept:
    """Which modules, parameters and hooks stand where."""
    names = ("_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks")
    inside = [(module, {name: dict(vars(module)[name]) for name in names}) for module in network.modules()]
    return inside, dict(vars(network))


def _restore(network: nn.Module, kept: _Kept) -> None:
    inside, own = kept
    for name in set(vars(network)) - set(own):
        delattr(network, name)
    for name, value in own.items():
        if not isinstance(value, dict):
            vars(network)[name] = value
    for module, tables in inside:
        for name, table in tables.items():
            current = vars(module)[name]
            current.clear()
            current.update(table)
