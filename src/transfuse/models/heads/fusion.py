"""One layer over several stages: their features, pooled and normalised, beside what the last layer is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from transfuse.core.grafts import graft
from transfuse.core.last_layers import Head
from transfuse.core.tapped import gathering
from transfuse.core.taps import AUTO, Tap, Taps
from transfuse.errors import ModelError
from transfuse.models.heads._maps import calls_before, dimensions_of


class Fusion:
    """outputs = W BatchNorm([pool(f_1); ...; pool(f_k); pool(x)]) + b.

    f_i are features of earlier stages, x is what the last layer is given, pool is the mean over positions. BatchNorm gives every number the
    same scale, since those of stages differ.

    Args:
        taps: module paths; null: the last feature of each spatial resolution.
        at: path of the layer to replace; null: found by a forward pass.
    """

    def __init__(self, taps: list[str] | None = None, at: str | None = None):
        self.taps, self.at = taps, at

    def build(self, network: nn.Module, head: Head, outputs: int, example: Any) -> None:
        if not isinstance(example, Tensor):
            raise ModelError("a head over several stages needs a network that takes one tensor", where="head.fusion")
        given = f"{head.path}@input"
        found = Taps(network, self.taps or AUTO, example)
        for path, shape in found.shapes.items():
            if len(shape) < 3:
                raise ModelError(f"'{path}' gives {shape}, no feature with positions", where="head.fusion.taps", fix="name stages")
        if isinstance(head.layer, nn.Linear) and len(Taps(network, given, example).shapes[given]) > 2:
            what = f"'{head.path}' makes outputs for each of several positions, which a layer over pooled stages can't"
            raise ModelError(what, where="head.fusion", fix="take head: linear or mlp")
        gathered = gathering(network, [*found.paths, given], example)
        sequences = _sequences(network, head, example, gathered.taps)
        gathered.axes = [[2] if sequence else axes for sequence, axes in zip(sequences, gathered.axes, strict=True)]
        tokens = [axes == [1] or found.sequence(path) for path, axes in zip(found.paths, gathered.axes[:-1], strict=True)]
        channels = [shape[-1] if last and len(shape) == 3 else shape[1] for last, shape in zip(tokens, found.shapes.values(), strict=True)]
        width = sum(channels) + head.width
        layers = [gathered, nn.BatchNorm1d(width), nn.Linear(width, outputs)]
        if not isinstance(head.layer, nn.Linear):  # what follows a convolution takes a map
            layers.append(nn.Unflatten(1, (outputs, *[1] * (head.layer.weight.ndim - 2))))
        graft(network, head.path, "instead", [layer.to(head.layer.weight) for layer in layers])


def _sequences(network: nn.Module, head: Head, example: Tensor, paths: Sequence[str]) -> list[bool]:
    """Which features are [batch, channels, positions], as a one-dimensional convolution gives them, rather than tokens."""
    calls = calls_before(network, head.path, example)
    places = {call.path: number for number, call in enumerate(calls)}  # of a module that ran twice the last one, as taps read it
    modules = [Tap.parse(path).module for path in paths]
    return [module in places and dimensions_of(calls[: places[module] + 1]) == 1 for module in modules]
