"""What policies share that train small adapters made by the package peft: putting them in, training them alone, merging them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from transfuse.core.policy import Group, Phase, Rate, always
from transfuse.core.vision import import_torchvision
from transfuse.errors import MissingExtra, RecipeError


class Adapted:
    """Adapters beside frozen layers, and the head, learn; merged at the end, so that what is shipped is the plain network.

    Args:
        name: of the policy, for messages.
        targets: module paths, or endings of them, that get an adapter; None: every linear layer and plain convolution but the head.
        configure: (peft, target paths) -> the package's configuration.
    """

    def __init__(self, name: str, targets: Sequence[str] | None, configure: Callable[[Any, list[str]], Any]):
        self._name, self._targets, self._configure = name, targets, configure
        self._adapters: tuple[nn.Parameter, ...] = ()

    def dress(self, network: nn.Module, head: Collection[nn.Parameter], seed: int) -> None:
        """Puts adapters in; the network says what it said before.

        Raises:
            MissingExtra: peft is not installed.
            RecipeError: no layer that can have one.
        """
        peft = _peft()
        paths = self._paths(network, {id(parameter) for parameter in head})
        known = {id(parameter) for parameter in network.parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                peft.inject_adapter_in_model(self._configure(peft, paths), network)
            except (ValueError, NotImplementedError) as error:
                raise RecipeError(str(error).splitlines()[0], where=f"policy.{self._name}", fix="name other targets") from error
        self._adapters = tuple(parameter for parameter in network.parameters() if id(parameter) not in known)

    def undress(self, network: nn.Module) -> None:
        """Merges the adapters into the layers that they stand beside."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]
        for path, layer in adapted:
            layer.merge()
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, layer.get_base_layer())
        self._adapters = ()

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        head = groups[-1]
        rates = (Rate("adapters", self._adapters, always(1.0)), Rate(head.name, head.parameters, always(1.0)))
        return [Phase("", 1.0, rates)]

    def _paths(self, network: nn.Module, head: set[int]) -> list[str]:
        able = [
            path
            for path, layer in network.named_modules()
            if path
            and (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
            and not any(id(parameter) in head for parameter in layer.parameters())
        ]
        if self._targets is not None:
            able = [path for path in able if any(path == target or path.endswith(f".{target}") for target in self._targets)]
        if not able:
            wanted = f" called {' or '.join(self._targets)}" if self._targets else ""
            what = (
                f"{type(network).__name__} has no linear layer or plain convolution{wanted} before its head, so there is nothing to adapt"
            )
            raise RecipeError(
                what, where=f"policy.{self._name}", fix="name targets by their paths (transfuse taps MODEL), or another policy"
            )
        return able


def _peft() -> Any:
    with suppress(MissingExtra):
        import_torchvision()  # transformers, which peft imports, looks for it, and fails where it is broken
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MissingExtra("peft", "peft", "a policy with adapters") from error
    return peft
