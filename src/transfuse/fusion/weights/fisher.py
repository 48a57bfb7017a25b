"""Fisher-weighted mean: each weight counts as much as its network's predictions depend on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from transfuse.core.numerics import at_least_fp32
from transfuse.core.taps import unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.states import State, combined
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Fisher-weighted averaging",
    paper="Matena, Raffel, 2022, NeurIPS",
    link="https://arxiv.org/abs/2111.09832",
    needs=("same_shapes", "shared_origin", "inputs"),
    tasks=("classification",),
    cost="forward and backward of some hundred single samples per source, for each class that the network holds possible",
)
Labels = Literal["model", "data"]
IMPROBABLE = 1e-4  # classes below this add less than that share of a gradient


def fisher(
    states: Sequence[State],
    information: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    floor: float = 1e-6,
    base: State | None = None,
) -> dict[str, Tensor]:
    """w_p = sum_i a_i F_ip w_ip / sum_i a_i F_ip with the diagonal of each network's Fisher information, at least `floor`.

    The floor is the authors' 1e-6: where no prediction depends on a weight it becomes the plain mean. Tensors without information (buffers)
    are averaged.

    Args:
        states: of networks trained from the same weights.
        information: `diagonal_information` of each.
        weights: of the states; None: equal.
        floor: smallest information that a weight counts with.
        base: not looked at.

    Raises:
        ModelError: names or shapes differ.
    """
    shares = [1.0] * len(states) if weights is None else list(weights)

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        known = [one[name].double().clamp(min=floor) if name in one else torch.ones_like(tensors[0]) for one in information]
        amounts = torch.stack([share * amount for share, amount in zip(shares, known, strict=True)])
        return (amounts * torch.stack(tensors)).sum(0) / amounts.sum(0)

    return combined(states, rule, shares)


def diagonal_information(
    network: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    labels: Labels = "model",
    arrange: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """F = mean over samples of E_y (d log p(y | x) / d w)^2, by parameter name; a single logit z is read as (0, z).

    model: the expectation over the network's own classes, exactly, but for classes below probability 1e-4; the paper samples y from it.
    data: y is the sample's label (the "empirical Fisher").

    Args:
        network: whose outputs are logits.
        batches: inputs, and labels where `labels` is data.
        labels: where y comes from.
        arrange: see `Calibration`; p is the softmax over what it gives.

    Raises:
        ModelError: there are no samples, or a label is missing.
    """
    parameters = {name: value.requires_grad_() for name, value in network.named_parameters()}
    sums, count = {name: torch.zeros_like(value) for name, value in parameters.items()}, 0
    for inputs, given in batches:
        for row in range(len(inputs)):
            log_p = _log_probabilities(network(inputs[row : row + 1]), arrange)
            for label, probability in _possible(log_p.detach().exp(), given[row], labels):
                gradients = torch.autograd.grad(log_p[label], list(parameters.values()), retain_graph=True, allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        sums[name] += probability * gradient.square()
            count += 1
    if not count:
        raise ModelError("there are no calibration samples to estimate the Fisher information on")
    return {name: (value / count).detach() for name, value in sums.items()}


def _log_probabilities(outputs: Tensor, arrange: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Of one sample, class by class."""
    logits = at_least_fp32(outputs if arrange is None else arrange(outputs))
    if logits.shape[1] == 1:  # the log-odds of the second of two classes: a softmax over it alone would be 1, and its gradient 0
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.log_softmax(1)[0]


def _possible(probabilities: Tensor, given: Tensor, labels: Labels) -> list[tuple[int, float]]:
    if labels == "model":
        return [(number, value) for number, value in enumerate(probabilities.tolist()) if value > IMPROBABLE]
    if given.ndim or given < 0:
        raise ModelError("the empirical Fisher information needs a class for every calibration sample", fix="labels: model")
    return [(int(given), 1.0)]


class Fisher:
    """A mean in which every weight counts by its Fisher information.

    Args:
        samples: how many calibration samples it is estimated on.
        labels: expected under the network's own prediction (the definition), or the data's (the empirical Fisher).
        floor: smallest information that a weight counts with.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(
        self,
        samples: Annotated[int, Ge(1)] = 256,
        labels: Labels = "model",
        floor: Annotated[float, Gt(0)] = 1e-6,
        repair: Repair = "auto",
        check_origin: bool = True,
    ):
        self.samples, self.floor = samples, floor
        self.labels: Labels = labels
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        information = []
        for source in sources:
            network = copy.deepcopy(unwrapped(source.module)).eval()  # gradients of a copy: the source's own stay as they are
            information.append(diagonal_information(network, opening.data.batches(self.samples), self.labels, opening.data.arrange))
        weights = [source.weight for source in sources]
        return finished(opening, fisher(opening.states, information, weights, self.floor), self.repair, weights=weights)
