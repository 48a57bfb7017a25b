"""Terms of a loss that pull against each other: every one's gradient gives way to the others before they are added (PCGrad)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.types import Batch, Term
from transfuse.engine.steppers.supervised import Supervised


def pcgrad(gradients: Float[Tensor, "terms parameters"], orders: Sequence[Sequence[int]]) -> Float[Tensor, "parameters"]:
    """sum_i g_i', where g_i' is g_i after, for each other term j in its order: where g_i' . g_j < 0, g_i' -= (g_i' . g_j / |g_j|^2) g_j.

    Every g_i' stays a combination of the given gradients, so their inner products are all that is looked at: one matrix product before
    and one after, whatever the number of terms. A term whose gradient is 0 changes nothing.

    Args:
        gradients: one row per term.
        orders: per term, the other terms in the order in which it gives way to them.

    Source: Yu, Kumar, Gupta, Levine, Hausman, Finn, 2020, NeurIPS, algorithm 1 (https://arxiv.org/abs/2001.06782). The authors' code
    shuffles the losses, but drops the result, so its order is always that of the losses; here it is random for each term, as in the paper.
    """
    products = (gradients @ gradients.T).double()
    norms = products.diagonal().clamp(min=torch.finfo(products.dtype).tiny)
    shares = torch.eye(len(gradients), dtype=products.dtype, device=gradients.device)  # row i: g_i' as a combination of all g
    for term, others in enumerate(orders):
        for other in others:
            against = (shares[term] @ products[:, other]).clamp(max=0)
            shares[term, other] -= against / norms[other]
    return shares.sum(0).to(gradients.dtype) @ gradients


class PerTermGradients:
    """A stepper whose terms' gradients are kept apart by the loop and combined by PCGrad.

    Conflicts are those in the network's parameters. What belongs to objectives (bridges, discriminators) gets the plain sum, which is its
    own term's gradient.

    Args:
        stepper: computes the terms.
    """

    def __init__(self, stepper: Supervised):
        self._stepper = stepper
        if (kept := getattr(stepper, "kept", None)) is not None:
            self.kept = kept  # the loop asks whether there is one
        self.look = stepper.look

    def trained(self) -> nn.Module:
        return self._stepper.trained()

    def phases(self) -> list[str]:
        return self._stepper.phases()

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        return self._stepper.trains(phase)

    def clipped(self) -> list[list[nn.Module]]:
        return self._stepper.clipped()

    def batch_level(self) -> list[str]:
        return self._stepper.batch_level()

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        return self._stepper.defined(batch)

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        return self._stepper.terms(batch, phase, progress)

    def combine(self, gradients: Float[Tensor, "terms parameters"]) -> Float[Tensor, "parameters"]:
        """One gradient out of those of all terms; the orders come from torch's default generator, which the loop seeds for each step."""
        count = len(gradients)
        orders = [[other for other in torch.randperm(count).tolist() if other != term] for term in range(count)]
        network = self.trained().get_submodule("student")  # registered first, so its parameters are a row's first entries
        size = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        return torch.cat([pcgrad(gradients[:, :size], orders), gradients[:, size:].sum(0)])
