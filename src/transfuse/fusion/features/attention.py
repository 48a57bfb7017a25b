"""Attention: one learnt query asks the sources' projected features, several heads at a time."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.errors import ModelError
from transfuse.fusion.features._projections import Activation, Projection, activated, projections, require_one_width, stacked
from transfuse.fusion.features._start import Linear, carried, read

CARD = Card(
    title="Attention over features",
    paper="Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, 2017, NIPS; pooled by a learnt query as in "
    "Lee, Lee, Kim, Kosiorek, Choi, Teh, 2019, ICML",
    link="https://arxiv.org/abs/1706.03762",
    tasks=("classification", "multilabel", "regression"),
    cost="one linear layer per source, and keys and values of all of them",
)


class Attention(nn.Module):
    """F(x) = phi(k [sum_i a_1i v_1i, ..., sum_i a_hi v_hi]), the heads side by side; a_h(x) = softmax_i(q_h k_hi(x) / sqrt(width / heads)).

    Keys and values are linear maps of t_i = f_i(x) + e_i: the i-th source's projected features and a learnt mark of the source. The queries
    start at 0, so that training begins with every a_hi = 1/k. The values' map starts at the identity.

    Args:
        width: numbers in the shared space.
        heads: how many; they divide the width.
        projection: linear, mlp, or none, which needs features of one width.
        activation: phi.
    """

    def __init__(
        self,
        width: Annotated[int, Ge(1)] = 128,
        heads: Annotated[int, Ge(1)] = 4,
        projection: Projection = "linear",
        activation: Activation = "relu",
    ):
        super().__init__()
        self.width, self.dim, self.heads = width, 0, heads
        self.projection: Projection = projection
        self.activation: Activation = activation
        self.projections = nn.ModuleList()
        self.keys: nn.Module = nn.Identity()
        self.values: nn.Module = nn.Identity()
        self.queries = nn.Parameter(torch.empty(0))
        self.marks = nn.Parameter(torch.empty(0))

    def build(self, dims: list[int]) -> None:
        """
        Raises:
            ModelError: no source, features of several widths without a projection, or heads that don't divide the width.
        """
        self.projections = projections(dims, self.width, self.projection)
        self.dim = require_one_width(dims, self.width, self.projection)
        if self.dim % self.heads:
            raise ModelError(f"{self.heads} heads don't divide {self.dim} numbers", fix="choose another number of heads")
        self.keys, values = nn.Linear(self.dim, self.dim, bias=False), nn.Linear(self.dim, self.dim, bias=False)
        nn.init.eye_(values.weight)
        self.values = values
        self.queries = nn.Parameter(torch.zeros(self.heads, self.dim // self.heads))
        self.marks = nn.Parameter(0.02 * torch.randn(len(dims), self.dim))

    def begin(self, heads: list[Linear]) -> Linear | None:
        """As in `Concat.begin`; the sources' marks are taken out of the units that hold their heads."""
        if not carried(self.projections, heads, self.marks):
            return None
        return read(len(heads[0][1]), [self.dim], self.activation)

    def shares(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch sources"]:
        """a(x), the mean over the heads."""
        return self._attention(stacked(self.projections, features) + self.marks).mean(1)

    def forward(self, features: list[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        tokens = stacked(self.projections, features) + self.marks
        values = self.values(tokens).unflatten(2, (self.heads, -1))
        heads = torch.einsum("bhs,bshw->bhw", self._attention(tokens), values)
        return activated(tokens.shape[1] * heads.flatten(1), self.activation)

    def _attention(self, tokens: Float[Tensor, "batch sources width"]) -> Float[Tensor, "batch heads sources"]:
        keys = self.keys(tokens).unflatten(2, (self.heads, -1))
        scores = torch.einsum("hw,bshw->bhs", self.queries, keys) / math.sqrt(keys.shape[-1])
        return scores.softmax(-1)
