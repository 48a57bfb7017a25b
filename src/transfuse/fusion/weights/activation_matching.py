"""Activation matching: units are reordered until the networks' activations correlate as much as possible, then weights are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from transfuse.core.taps import unwrapped
from transfuse.fusion.alignment.matching import Activations, correlations, match_activations
from transfuse.fusion.alignment.permuting import permuted
from transfuse.fusion.alignment.tracing import Specification
from transfuse.fusion.states import State
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._alignment import merge_aligned
from transfuse.fusion.weights._assembly import opened
from transfuse.fusion.weights.weighted import weighted

CARD = MergeCard(
    title="Activation matching (Git Re-Basin)",
    paper="Ainsworth, Hayase, Srinivasa, 2023, ICLR; Li et al., 2016, ICLR",
    link="https://arxiv.org/abs/2209.04836",
    needs=("same_shapes", "inputs"),
    cost="a forward pass of the calibration samples per source, and a linear assignment per group of units",
)


def activation_matching(
    states: Sequence[State], activations: Sequence[Activations], weights: Sequence[float] | None = None, base: State | None = None
) -> dict[str, Tensor]:
    """w = sum_i a_i P_i w_i / sum_i a_i, P_i being the permutation for which units' correlations with those of w_1 add up to most.

    Args:
        states: of networks of one architecture.
        activations: of the first state's network with each of the others: `fusion.alignment.matching.correlations`.
        weights: of the states; None: equal.
        base: not looked at.

    Raises:
        ModelError: names or shapes differ.
    """
    pairs = zip(states[1:], activations, strict=True)
    aligned = [states[0], *(permuted(state, one.specification, match_activations(one)) for state, one in pairs)]
    return weighted(aligned, [1.0] * len(states) if weights is None else weights)


class ActivationMatching:
    """Aligns all sources with the first by their activations, and averages them by their weights.

    Args:
        samples: how many calibration samples activations are compared on.
        repair: auto re-estimates BatchNorm's statistics and repairs the units of layers without; reset only the former; none neither.
    """

    def __init__(self, samples: Annotated[int, Ge(2)] = 2048, repair: Repair = "auto"):
        self.samples = samples
        self.repair: Repair = repair

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base)
        networks = [unwrapped(source.module) for source in sources]

        def match(number: int, specification: Specification) -> dict[str, Tensor]:
            return match_activations(correlations(networks[0], networks[number], specification, opening.inputs(self.samples)))

        return merge_aligned(opening, match, self.repair)
