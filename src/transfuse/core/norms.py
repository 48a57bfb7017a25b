"""Finds the BatchNorm in front of a tapped feature, and what it says about how the feature is distributed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.taps import Tap, Taps, undisturbed, unwrapped


@dataclass(frozen=True)
class Norm:
    """A BatchNorm as a statement about what it gives: per channel, a mean and a standard deviation over the data that it was trained on.

    Attributes:
        path: of the module.
        mean: float [channels], its bias.
        deviation: float [channels], the size of its weight.
    """

    path: str
    mean: Float[Tensor, "channels"]
    deviation: Float[Tensor, "channels"]


def norms_before(module: nn.Module, paths: Sequence[str], example: Tensor) -> dict[str, Norm | None]:
    """Tap -> the last BatchNorm with as many channels that ran before the feature was read; None where none did.

    A tapped BatchNorm is its own. Where a shortcut has a BatchNorm of its own, it may be the one that runs last: which of two that are
    added tells how the sum is distributed can't be said, so tap a block whose shortcut has none.

    Raises:
        ModelError: an unknown path.
    """
    network = unwrapped(module)
    shapes = Taps(network, paths, example).shapes
    ran: list[tuple[str, Any]] = []
    found: dict[str, Norm | None] = dict.fromkeys(paths)

    def look(path: str) -> Any:
        def hook(*_: Any) -> None:
            shape = shapes[path]
            channels = shape[1] if len(shape) == 4 else shape[-1]
            found[path] = next((_norm(name, layer) for name, layer in reversed(ran) if layer.num_features == channels), None)

        return hook

    with undisturbed(network), ExitStack() as hooks:
        for name, layer in network.named_modules():  # first, so that a tapped BatchNorm has run when it is read
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                hooks.callback(layer.register_forward_hook(lambda *_, name=name, layer=layer: ran.append((name, layer))).remove)
        for path in paths:
            tap = Tap.parse(path)
            target = network.get_submodule(tap.module)
            attach = target.register_forward_pre_hook if tap.input else target.register_forward_hook
            hooks.callback(attach(look(path)).remove)
        network(example)
    return found


def _norm(path: str, layer: Any) -> Norm:
    if layer.weight is None:
        return Norm(path, torch.zeros(layer.num_features), torch.ones(layer.num_features))
    return Norm(path, layer.bias.detach().clone(), layer.weight.detach().abs())
