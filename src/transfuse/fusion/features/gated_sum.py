"""Gated sum: the sources' projected features added up with weights that a gate chooses for every sample."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.fusion.features._projections import Activation, Projection, activated, projections, require_one_width, stacked
from transfuse.fusion.features._start import Linear, carried, read

CARD = Card(
    title="Gated sum of features",
    paper="Jacobs, Jordan, Nowlan, Hinton, 1991, Neural Computation 3 (mixtures of experts); here of features",
    link="https://doi.org/10.1162/neco.1991.3.1.79",
    tasks=("classification", "multilabel", "regression"),
    cost="one linear layer per source, and a gate over all sources' numbers",
)


class GatedSum(nn.Module):
    """F(x) = phi(k sum_i g_i(x) f_i(x)) with g(x) = softmax(W [f_1(x), ..., f_k(x)] + b), f_i the i-th source's projected features.

    The gate starts at g_i = 1/k for every sample, so that training begins with the plain sum.

    Args:
        width: numbers in the shared space.
        projection: linear, mlp, or none, which needs features of one width.
        activation: phi.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 128, projection: Projection = "linear", activation: Activation = "relu"):
        super().__init__()
        self.width, self.dim = width, 0
        self.projection: Projection = projection
        self.activation: Activation = activation
        self.projections = nn.ModuleList()
        self.gate: nn.Module = nn.Identity()

    def build(self, dims: list[int]) -> None:
        """
        Raises:
            ModelError: no source, or features of several widths without a projection.
        """
        self.projections = projections(dims, self.width, self.projection)
        self.dim = require_one_width(dims, self.width, self.projection)
        gate = nn.Linear(self.dim * len(dims), len(dims))
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)
        self.gate = gate

    def begin(self, heads: list[Linear]) -> Linear | None:
        """As in `Concat.begin`; features as they are can't be held, since one layer reads their sum."""
        if not carried(self.projections, heads):
            return None
        return read(len(heads[0][1]), [self.dim], self.activation)

    def shares(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch sources"]:
        """g(x)."""
        return self._gates(stacked(self.projections, features))

    def forward(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        together = stacked(self.projections, features)
        weights = together.shape[1] * self._gates(together)
        return activated((weights[..., None] * together).sum(1), self.activation)

    def _gates(self, together: Float[Tensor, "batch sources width"]) -> Float[Tensor, "batch sources"]:
        return torch.softmax(self.gate(together.flatten(1)), dim=1)
