"""Batch spectral shrinkage: the smallest singular values of the features go to zero, as those carry what doesn't transfer."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step
from transfuse.objectives._vectors import last_tap, vectors

CARD = Card(
    title="Batch spectral shrinkage (BSS)",
    paper="Chen, Wang, Fu, Long, Wang, 2019, NeurIPS",
    link="https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html",
    level="batch",
    needs=("student.features",),
    paper_weight=0.001,
    tasks=("classification", "multilabel", "regression"),
    cost="the singular values of a matrix [batch, width]",
)


def bss_loss(student_features: Float[Tensor, "batch *inner"], k: int = 1) -> Float[Tensor, ""]:
    """Sum of the k smallest squared singular values of the feature matrix [batch, width]. Maps are averaged over space.

    Raises:
        ValueError: the matrix has fewer than k singular values.
    """
    rows = vectors(student_features)
    if not 1 <= k <= min(rows.shape):
        raise ValueError(f"k is {k}, and features of shape {list(rows.shape)} have {min(rows.shape)} singular values")
    return torch.linalg.svdvals(rows)[-k:].square().sum()


class BSS(nn.Module):
    """Shrinkage of the deepest tapped feature's spectrum, over the batch of all processes.

    Args:
        k: how many of the smallest singular values are shrunk.
    """

    def __init__(self, k: Annotated[int, Ge(1)] = 1):
        super().__init__()
        self.k = k

    def forward(self, step: Step) -> Tensor:
        return bss_loss(gather_rows(vectors(last_tap(step.student, "student"))), self.k)
