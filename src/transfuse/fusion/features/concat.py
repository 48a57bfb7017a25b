"""Concatenation: every source's features side by side, after a projection of each."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.fusion.features._projections import Activation, Projection, activated, projected, projections
from transfuse.fusion.features._start import Linear, carried, read

CARD = Card(
    title="Concatenation of features",
    paper="usual practice; the input of amalgamation in Luo, Wang, Fang, Hu, Tao, Song, 2019, IJCAI, is of this kind",
    link="https://arxiv.org/abs/1906.10546",
    tasks=("classification", "multilabel", "regression"),
    cost="one linear layer per source; a head over all sources' numbers",
)


class Concat(nn.Module):
    """F(x) = phi([f_1(x), ..., f_k(x)]), f_i the i-th source's projected features.

    With projection none and activation none a linear head on top is a sum of one linear head per source.

    Args:
        width: numbers per source after its projection.
        projection: linear, mlp, or none: the features as they are.
        activation: phi.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 128, projection: Projection = "linear", activation: Activation = "relu"):
        super().__init__()
        self.width, self.dim = width, 0
        self.projection: Projection = projection
        self.activation: Activation = activation
        self.projections = nn.ModuleList()

    def build(self, dims: list[int]) -> None:
        """
        Raises:
            ModelError: no source, or a source without features.
        """
        self.projections = projections(dims, self.width, self.projection)
        self.dim = sum(dims) if self.projection == "none" else self.width * len(dims)

    def begin(self, heads: list[Linear]) -> Linear | None:
        """Starts so that the layer given back, on top of the rule, says the sum of these heads, each on its source's features.

        None, and nothing is changed, where they can't be held: fewer than two units per output, or phi on features as they are.
        """
        if self.projection == "none" and self.activation == "none":
            return torch.cat([weight for weight, _ in heads], 1), torch.stack([bias for _, bias in heads]).sum(0)
        if not carried(self.projections, heads):
            return None
        return read(len(heads[0][1]), [self.width] * len(heads), self.activation)

    def forward(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        return activated(torch.cat(projected(self.projections, features), dim=1), self.activation)
