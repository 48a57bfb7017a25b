"""Gradients of the terms of a loss, kept apart over the micro-batches of a step and combined at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from transfuse.core import ranks

Combine = Callable[[Tensor], Tensor]
"""[terms, parameters] -> [parameters]: one gradient out of those of all terms, as flat vectors."""


class Apart:
    """One row per term over all trainable parameters of a module, in the order of `module.parameters()`.

    Args:
        module: what is trained.
        combination: one gradient out of those of all terms.
    """

    def __init__(self, module: nn.Module, combination: Combine):
        self.combination = combination
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._reached = [False] * len(self.parameters)
        self._rows: list[Tensor] = []

    def add(self, term: int, gradients: Sequence[Tensor | None]) -> None:
        """Takes in one term's gradients on one micro-batch; None where the term doesn't depend on a parameter."""
        self._reached = [before or found is not None for before, found in zip(self._reached, gradients, strict=True)]
        filled = [torch.zeros_like(own) if found is None else found for own, found in zip(self.parameters, gradients, strict=True)]
        row = torch.cat([gradient.reshape(-1) for gradient in filled])
        if term < len(self._rows):
            self._rows[term] += row
        else:
            self._rows.append(row)

    def combine(self) -> None:
        """Sums over ranks, then combines, so that all ranks agree, and leaves the result in `.grad`; None where no term reaches."""
        together = self.combination(ranks.sum_over_ranks(torch.stack(self._rows)))
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, reached, gradient in zip(self.parameters, self._reached, together.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter) if reached else None
