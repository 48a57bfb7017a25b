"""A network read at inner features: they are averaged over positions, put side by side, and given to a head of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.taps import Taps


def pooled(feature: Tensor) -> Float[Tensor, "batch width"]:
    """Averages maps over positions and sequences over tokens; what has neither is left as it is."""
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature.flatten(1)


class Tapped(nn.Module):
    """head(concat of pooled features); without a head the features themselves.

    The inner network's modules are found under their own paths too.

    Args:
        network: any.
        paths: of its taps, in the order in which the features are put side by side.
        head: what is made of the features; None: nothing.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str], head: nn.Module | None = None):
        super().__init__()
        self.network, self.paths = network, tuple(paths)
        self.head = nn.Identity() if head is None else head
        self._taps: tuple[Taps, ...] = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" or name.startswith("__"):
                raise
            return getattr(super().__getattr__("network"), name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_taps": ()}  # hooks belong to one network; a copy attaches its own

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch outputs"]:
        if not self._taps:
            self._taps = (Taps(self.network, self.paths, inputs[:1]),)
        features = self._taps[0](inputs)[1]
        return self.head(torch.cat([pooled(features[path]).float() for path in self.paths], dim=1))
