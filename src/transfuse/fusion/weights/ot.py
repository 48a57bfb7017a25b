"""Optimal-transport fusion: units are matched softly, so that networks of different widths can be averaged (OTFusion)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from transfuse.core.taps import unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import units
from transfuse.fusion.alignment.tracing import Probe, Specification, collect, trace
from transfuse.fusion.alignment.transport import Bridge, carried, corresponding, makers, transport_plan
from transfuse.fusion.states import State
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._alignment import require_groups
from transfuse.fusion.weights._assembly import Opening, finished, opened
from transfuse.fusion.weights.weighted import weighted

CARD = MergeCard(
    title="Optimal-transport fusion (OTFusion)",
    paper="Singh, Jaggi, 2020, NeurIPS",
    link="https://arxiv.org/abs/1910.05653",
    needs=("inputs",),
    cost="an exact transport plan per group of units: an assignment for equal widths, else a linear program of their product's size",
)
By = Literal["activations", "weights"]
Values = Mapping[str, Tensor]  # group -> [units, samples], what each unit gives on the same inputs


def ot(
    states: Sequence[State],
    specifications: Sequence[Specification],
    values: Sequence[Values] | None = None,
    weights: Sequence[float] | None = None,
    base: State | None = None,
) -> dict[str, Tensor]:
    """w = sum_i a_i B_i(w_i) / sum_i a_i: every network is led over to the first one's units, layer by layer, and averaged with it.

    For a group of n units here and m in the first network, T is the exact transport plan between uniform masses with squared Euclidean
    costs; m T^T makes the m units, and n T^T hands on what later layers take from the n. The paper uses m T^T for both, which for
    different widths makes what a layer takes smaller or larger by their ratio; for equal widths it is the same.

    Args:
        states: of networks of the same layers.
        specifications: which units may be matched in each: `fusion.alignment.tracing.trace(module, example)`.
        values: of each network's units on the same inputs; None: units are compared by their incoming weights, the layers before them
            being matched already.
        weights: of the states; None: equal.
        base: not looked at.

    Raises:
        ModelError: the networks differ in more than their widths.
    """
    return weighted(led_over(states, specifications, values), [1.0] * len(states) if weights is None else weights)


def led_over(
    states: Sequence[State], specifications: Sequence[Specification], values: Sequence[Values] | None = None
) -> list[dict[str, Tensor]]:
    """Every network's weights at the first one's units.

    Raises:
        ModelError: the networks differ in more than their widths.
    """
    led = [dict(states[0])]
    for number in range(1, len(states)):
        corresponding(specifications[0], specifications[number])
        pair = None if values is None else (values[0], values[number])
        bridges = plans(states[0], states[number], specifications[0], specifications[number], pair)
        led.append(carried(states[number], specifications[number], bridges))
    return led


def plans(
    reference: State, state: State, there: Specification, here: Specification, values: tuple[Values, Values] | None = None
) -> dict[str, Bridge]:
    """A bridge per group from a network's units to the reference's; groups in the order of the forward pass."""
    bridges: dict[str, Bridge] = {}
    for name, group in here.groups.items():
        if values is None:
            one, other = _incoming(state, here, name, bridges), _incoming(reference, there, name, {})
        else:
            one, other = values[1][name].double(), values[0][name].double()
        cost = torch.cdist(one, other).square()
        plan = transport_plan(cost)
        size = there.groups[name].size
        bridges[name] = Bridge(make=size * plan.T, use=group.size * plan.T)
    return bridges


def _incoming(state: State, specification: Specification, name: str, bridges: Mapping[str, Bridge]) -> Tensor:
    """[units, entries]: what makes a group's units, of weights whose other axes are matched already or need no matching.

    Raises:
        ModelError: there are none.
    """
    group = specification.groups[name]
    parts = makers(group)
    known = {tensor: {one.name for one, _ in specification.parts_of(tensor)} - {name} for tensor in {part.tensor for part in parts}}
    order = list(specification.groups)
    before = set(order[: order.index(name)])
    loops = {part.tensor for part in group.parts if part.consumes}  # a weight from the group to itself: its columns are not matched yet
    usable = [part for part in parts if known[part.tensor] <= before and part.tensor not in loops]
    if not usable:
        raise ModelError(f"the units of '{name}' can't be told apart by what comes into them", fix="by: activations")
    tensors = carried({part.tensor: state[part.tensor] for part in usable}, specification, bridges)
    return torch.cat([units(tensors[part.tensor], group, part) for part in usable], 1)


class Ot:
    """Leads all sources over to the first one's units by optimal transport, and averages them by their weights.

    Args:
        by: how units are compared: by their activations on calibration samples, or by their incoming weights.
        samples: how many calibration samples; the paper uses 200.
        repair: auto re-estimates BatchNorm's statistics and repairs the units of layers without; reset only the former; none neither.
    """

    def __init__(self, by: By = "activations", samples: Annotated[int, Ge(2)] = 200, repair: Repair = "auto"):
        self.by: By = by
        self.samples = samples
        self.repair: Repair = repair

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base)
        example = opening.example()
        networks = [unwrapped(source.module) for source in sources]
        specifications = [trace(network, example) for network in networks]
        require_groups(specifications[0], networks[0])
        for specification in specifications[1:]:
            corresponding(specifications[0], specification)
        values = None
        if self.by == "activations":
            pairs = zip(networks, specifications, strict=True)
            values = [unit_values(network, specification, opening, self.samples) for network, specification in pairs]
        weights = [source.weight for source in sources]
        led = led_over(opening.states, specifications, values)
        opening.notes.append(f"units were led over to those of '{sources[0].name}' by optimal transport of their {self.by}")
        if all(specification.shapes == specifications[0].shapes for specification in specifications[1:]):
            aligned = [_filled(network, state) for network, state in zip(networks, led, strict=True)]
        else:  # units of another width have no one to one counterpart, so the first network alone says what scale they should have
            aligned = networks[:1]
        return finished(opening, weighted(led, weights), self.repair, aligned, weights if len(aligned) > 1 else None)


def _filled(network: nn.Module, state: State) -> nn.Module:
    copied = copy.deepcopy(network)
    copied.load_state_dict(dict(state))
    return copied


def unit_values(network: nn.Module, specification: Specification, opening: Opening, samples: int) -> dict[str, Tensor]:
    """Group -> [units, rows]: what the layers that use its units are given, one after the other.

    Raises:
        ModelError: a group's units are used by no layer, so that there is nothing to compare.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in specification.groups}

    def keep(group: str, _: Probe, rows: Tensor) -> None:
        found[group].append(rows.T)

    for inputs in opening.inputs(samples):
        collect(network, inputs, specification, keep)
    for name, rows in found.items():
        if not rows:
            raise ModelError(f"the units of '{name}' are given to no layer", fix="by: weights")
    return {name: torch.cat(rows, 1) for name, rows in found.items()}
