"""Begins a shallower network with some of a deeper one's layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.policies.init._carrying import carry, plan
from transfuse.policies.init._pairing import Spread, spread
from transfuse.policies.init._scene import Group, Moved, Scene

CARD = Card(
    title="Layers dropped (DistilBERT)",
    paper="Sanh, Debut, Chaumond, Wolf, DistilBERT, NeurIPS 2019 workshop EMC2",
    link="https://arxiv.org/abs/1910.01108",
    level="parameters",
    tasks=("classification", "multilabel", "regression"),
)


def first_layers(count: int, of: int) -> list[int]:
    """0 .. count - 1."""
    return list(range(count))


def last_layers(count: int, of: int) -> list[int]:
    """The first, which may change the shape, and the last count - 1."""
    return [0, *range(of - count + 1, of)] if count > 1 else [0]


KEEPS: dict[str, Spread] = {"spread": spread, "first": first_layers, "last": last_layers}


class DropLayers:
    """Of each stack of layers as many as the target has are copied; every other tensor is copied under its name.

    DistilBERT takes one layer out of two: 0, 2, 4, 7, 9, 11 of 12, which is what `spread` does for 6 of 12. BatchNorm statistics are
    estimated anew, since what a layer is given changes. Layers of another width are left; `select` and `project` drop layers as well.

    Args:
        keep: spread: evenly, the first and the last among them; first; last: the first one and the last ones.
    """

    def __init__(self, keep: Literal["spread", "first", "last"] = "spread"):
        self.keep = keep

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        def matrix(own: Group, other: Group) -> Tensor | None:
            return None

        return carry(source, target, scene, plan(source, target, scene, matrix, "copied", KEEPS[self.keep]), "none")
