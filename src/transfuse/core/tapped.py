"""A network's inner features as vectors: averaged over positions and put side by side, on their own or as what its last layer is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.taps import Tap, Taps
from transfuse.errors import ModelError


def averaged_axes(shape: Sequence[int]) -> list[int]:
    """The axes of a feature [batch, ...] that are positions: those of maps behind the channels, the first of tokens [batch, n, width]."""
    return [1] if len(shape) == 3 else list(range(2, len(shape)))


def pooled(feature: Tensor, axes: Sequence[int]) -> Float[Tensor, "batch width"]:
    """The mean over positions, [batch, width]."""
    return (feature.mean(tuple(axes)) if axes else feature).flatten(1).float()


class Tapped(nn.Module):
    """A network whose outputs are inner features, pooled and put side by side; its last layers run for nothing where none is tapped.

    Args:
        network: any.
        paths: of its taps, in the order in which the features are put side by side.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]):
        super().__init__()
        self.network, self.paths = network, tuple(paths)
        self._taps: tuple[Taps, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_taps": ()}  # they read one network; a copy makes its own

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch width"]:
        if not self._taps:
            self._taps = (Taps(self.network, self.paths, inputs[:1]),)
        features = self._taps[0](inputs)[1]
        return torch.cat([pooled(features[path], averaged_axes(features[path].shape)) for path in self.paths], dim=1)


class Gathered(nn.Module):
    """In front of a last layer: in place of what that layer is given, features of other places of the network, as `Tapped` gives them.

    The features are noted by hooks in the same forward pass and let go in it; they are averaged as they are noted, so that nothing that
    is changed in place afterwards changes them.

    Args:
        taps: module paths, in the order in which the features are put side by side.
        axes: the axes of each feature, as the module gives it, that are averaged.
    """

    def __init__(self, taps: Sequence[str], axes: Sequence[Sequence[int]]):
        super().__init__()
        self.taps, self.axes = list(taps), [list(positions) for positions in axes]
        self._seen: dict[str, Tensor] = {}

    def attach(self, network: nn.Module) -> None:
        """Notes the features in every forward pass of the network that this layer is part of; copies of the network do so, too.

        Raises:
            ModelError: there is no such module.
        """
        for path, axes in zip(self.taps, self.axes, strict=True):
            tap = Tap.parse(path)
            try:
                module = network.get_submodule(tap.module)
            except AttributeError as error:
                raise ModelError(f"{type(network).__name__} has no module '{tap.module}'", fix="transfuse taps MODEL prints all") from error
            (module.register_forward_pre_hook if tap.input else module.register_forward_hook)(_Note(tap, axes, self._seen))

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch width"]:
        return torch.cat([self._seen.pop(path) for path in self.taps], dim=1)


def gathering(network: nn.Module, paths: Sequence[str], example: Tensor) -> Gathered:
    """The layer for these paths, which knows from an example along which axes their features are averaged."""
    taps = Taps(network, paths, example)
    axes = []
    for path, shape in taps.shapes.items():
        last = taps.channels_last(path)  # shapes are told with the channels first
        axes.append([2] if taps.sequence(path) else list(range(1, len(shape) - 1)) if last else averaged_axes(shape))
    return Gathered(list(taps.shapes), axes)


class _Note:
    """A hook that notes a feature; an object, so that a copied network has its own."""

    def __init__(self, tap: Tap, axes: Sequence[int], seen: dict[str, Tensor]):
        self.tap, self.axes, self.seen = tap, list(axes), seen

    def __call__(self, _module: nn.Module, arguments: tuple[Any, ...], output: Any = None) -> None:
        feature = self.tap.read(arguments if self.tap.input else output)
        if feature is not None:
            self.seen[self.tap.path] = pooled(feature, self.axes)
