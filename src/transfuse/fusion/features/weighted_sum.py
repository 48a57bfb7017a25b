"""Weighted sum: the sources' projected features added up with one learnt weight each."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.fusion.features._projections import Activation, Projection, activated, projections, require_one_width, stacked
from transfuse.fusion.features._start import Linear, carried, read

CARD = Card(
    title="Weighted sum of features",
    paper="Peters, Neumann, Iyyer, Gardner, Clark, Lee, Zettlemoyer, 2018, NAACL (layers of one network); here sources",
    link="https://arxiv.org/abs/1802.05365",
    tasks=("classification", "multilabel", "regression"),
    cost="one linear layer and one number per source",
)


class WeightedSum(nn.Module):
    """F(x) = phi(sum_i alpha_i f_i(x)), f_i the i-th source's projected features.

    softmax: alpha = k softmax(a), k the number of sources, a learnt from 0: weights are positive, add up to k, and start at 1, so that the
    sum begins as large as with free weights. free: alpha_i is learnt itself, from 1.

    Args:
        width: numbers in the shared space.
        projection: linear, mlp, or none, which needs features of one width.
        weights: softmax or free.
        activation: phi.
    """

    def __init__(
        self,
        width: Annotated[int, Ge(1)] = 128,
        projection: Projection = "linear",
        weights: Literal["softmax", "free"] = "softmax",
        activation: Activation = "relu",
    ):
        super().__init__()
        self.width, self.dim, self.weights = width, 0, weights
        self.projection: Projection = projection
        self.activation: Activation = activation
        self.projections = nn.ModuleList()
        self.scores = nn.Parameter(torch.empty(0))

    def build(self, dims: list[int]) -> None:
        """
        Raises:
            ModelError: no source, or features of several widths without a projection.
        """
        self.projections = projections(dims, self.width, self.projection)
        self.dim = require_one_width(dims, self.width, self.projection)
        self.scores = nn.Parameter(torch.zeros(len(dims)) if self.weights == "softmax" else torch.ones(len(dims)))

    def begin(self, heads: list[Linear]) -> Linear | None:
        """As in `Concat.begin`; features as they are can't be held, since one layer reads their sum."""
        if not carried(self.projections, heads):
            return None
        return read(len(heads[0][1]), [self.dim], self.activation)

    def alpha(self) -> Float[Tensor, "sources"]:
        """The weights."""
        return len(self.scores) * self.scores.softmax(0) if self.weights == "softmax" else self.scores

    def shares(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch sources"]:
        """|alpha_i| / sum_j |alpha_j|, the same for every sample; free weights can be negative."""
        size = self.alpha().abs()
        return (size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)).expand(len(features[0]), -1)

    def forward(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        together = stacked(self.projections, features)
        return activated((self.alpha()[:, None] * together).sum(1), self.activation)
