"""Layer groups of any network, from the input to the head: what freezing schedules and layer-wise learning rates count in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.last_layers import find_heads
from transfuse.core.policy import Group
from transfuse.core.taps import undisturbed
from transfuse.errors import ModelError

HEAD = "head"
BLOCKS_SHARE = 0.85  # of a module's parameters, embeddings aside, that lie in its list of blocks, if it is a stage rather than a block
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layer_groups(network: nn.Module, example: Tensor, fresh: Collection[nn.Parameter] = ()) -> list[Group]:
    """The network's parameters in groups by depth: stem first, one group per block, the head last and called "head".

    timm's networks say their groups themselves (`group_matcher`). Of others, lists of layers and stages made of equal blocks are opened
    up, down to blocks or single layers; a layer of nothing but vectors (a normalisation) joins the one before it. Groups are ordered by
    when they run for the example. Each parameter is in one group, told by identity: equal values prove nothing, and
    a tied weight counts where it comes first, or as the head's.

    Args:
        network: any.
        example: one preprocessed sample, [1, ...].
        fresh: parameters that start anew; they are the head. Without them it is what the main output is made by (`core.last_layers`).

    Raises:
        ModelError: no parameters, or no layer is the head; lists those that might be meant.
    """
    if next(network.parameters(), None) is None:
        raise ModelError(f"{type(network).__name__} has no parameters, so there is nothing to train", fix="give another model")
    heads = list(fresh) or list(dict.fromkeys(own for head in find_heads(network, example) if head.main for own in head.layer.parameters()))
    taken = {id(parameter) for parameter in heads}
    groups: list[Group] = []
    for name, parameters in _by_timm(network) or _by_structure(network, example):
        own = tuple(parameter for parameter in parameters if id(parameter) not in taken)
        taken |= {id(parameter) for parameter in own}
        own = tuple(dict.fromkeys(own))
        if not own:
            continue
        if groups and all(parameter.ndim <= 1 for parameter in own):
            groups[-1] = Group(groups[-1].name, (*groups[-1].parameters, *own))
        else:
            groups.append(Group(name, own))
    return [*groups, Group(HEAD, tuple(heads))]


def _by_timm(network: nn.Module) -> list[tuple[str, list[nn.Parameter]]] | None:
    """Groups as timm's networks give them; None for others."""
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None or not type(network).__module__.startswith("timm."):
        return None
    from timm.models import group_parameters

    named = dict(network.named_parameters())
    numbered: dict[int, list[str]] = group_parameters(network, matcher(coarse=False))
    return [(_main_path({name: named[name] for name in names}), [named[name] for name in names]) for _, names in sorted(numbered.items())]


def _main_path(parameters: Mapping[str, nn.Parameter]) -> str:
    """The deepest module that holds nine in ten of these numbers; where none does, that of the first."""
    path, total = "", sum(parameter.numel() for parameter in parameters.values())
    for depth in range(1, max(name.count(".") for name in parameters) + 1):
        inside: dict[str, int] = {}
        for name, parameter in parameters.items():
            parts = name.split(".")[:-1]
            if len(parts) >= depth:
                inside[".".join(parts[:depth])] = inside.get(".".join(parts[:depth]), 0) + parameter.numel()
        largest = max(inside, key=lambda prefix: inside[prefix], default="")
        if inside.get(largest, 0) < 0.9 * total:
            break
        path = largest
    first = next(iter(parameters))
    return path or first.rpartition(".")[0] or first


def _by_structure(network: nn.Module, example: Tensor) -> list[tuple[str, list[nn.Parameter]]]:
    """(path, parameters) of blocks and single layers, in the order in which they run."""
    found = list(_units(network, ""))
    when = _order_of_running(network, example)
    ran = {id(parameter): place for parameter, place in when.values()}
    latest = len(ran)

    def place(entry: tuple[str, list[nn.Parameter]]) -> int:
        return min((ran[id(parameter)] for parameter in entry[1] if id(parameter) in ran), default=latest)

    loose = [entry for entry in found if entry[0].endswith(".*") or entry[0] == "*"]  # tokens and embeddings held by a parent: stem
    units = [entry for entry in found if entry not in loose]
    units.sort(key=place)  # stable: those that never ran stay in the order of registration
    if loose and units:
        units[0] = (units[0][0], [parameter for _, parameters in loose for parameter in parameters] + units[0][1])
        return units
    return units or loose


def _units(module: nn.Module, path: str) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The module opened up: its children's units, and what it holds itself under PATH.*"""
    own = list(module.parameters(recurse=False))
    if own:
        children = list(module.children())
        if not children:
            yield path, own
            return
        yield f"{path}.*" if path else "*", own
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if next(child.parameters(), None) is None:
            continue
        if _opened(child):
            yield from _units(child, inner)
        else:
            yield inner, list(child.parameters())


def _opened(module: nn.Module) -> bool:
    """Whether a module is a list of layers, or a stage that is mostly a list of equal blocks, rather than a block."""
    if type(module) in _LISTS:
        return True
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    total = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in embeddings)
    for inner in module.modules():
        if isinstance(inner, _LISTS):
            blocks = [child for child in inner.children() if _is_block(child)]
            kinds = [type(block) for block in blocks]
            inside = sum(parameter.numel() for block in blocks for parameter in block.parameters())
            if any(kinds.count(kind) > 1 for kind in kinds) and inside >= BLOCKS_SHARE * total:
                return True
    return False


def _is_block(module: nn.Module) -> bool:
    """Something of several layers that is no mere sequence (a convolution with its normalisation is a sequence)."""
    return not isinstance(module, _LISTS) and sum(1 for child in module.children() if next(child.parameters(), None) is not None) > 1


def _order_of_running(network: nn.Module, example: Tensor) -> dict[int, tuple[nn.Parameter, int]]:
    """id -> (parameter, place), by the first forward pass of the layer that holds it."""
    ran: dict[int, tuple[nn.Parameter, int]] = {}

    def note(layer: nn.Module, _given: Any) -> None:
        for parameter in layer.parameters(recurse=False):
            ran.setdefault(id(parameter), (parameter, len(ran)))

    hooks = [layer.register_forward_pre_hook(note) for layer in network.modules()]
    try:
        with undisturbed(network), torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return ran
