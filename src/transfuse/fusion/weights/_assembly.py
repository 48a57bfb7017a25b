"""What all rules on weights do before and after their formula: check what they are given, and make a network of the merged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.taps import unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.alignment.transport import corresponding
from transfuse.fusion.origin import compare_origin
from transfuse.fusion.repair import Joined, batch_norms, repair_units, reset_statistics
from transfuse.fusion.states import State, require_alike
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair

STATISTICS_SAMPLES = 2048  # calibration samples for normalisation statistics and for the repair of units
INSTEAD = "use output or feature fusion"


@dataclass
class Opening:
    """Checked sources with their weights.

    Attributes:
        sources: as given.
        states: their state dicts, in the same order.
        calibration: data, or None.
        base: the weights that training began with, or None.
        notes: what was noticed.
    """

    sources: list[Parent]
    states: list[State]
    calibration: Calibration | None
    base: State | None
    notes: list[str] = field(default_factory=list)

    @property
    def data(self) -> Calibration:
        """The calibration data, of a rule whose card needs them."""
        assert self.calibration is not None
        return self.calibration

    def inputs(self, count: int = STATISTICS_SAMPLES) -> Iterator[Tensor]:
        """Calibration inputs."""
        return (inputs for inputs, _ in self.data.batches(count))

    def example(self, rows: int = 4) -> Tensor:
        """A few calibration inputs."""
        return torch.cat([inputs for inputs, _ in self.data.batches(rows)])[:rows]


def opened(
    card: MergeCard, sources: Sequence[Parent], calibration: Calibration | None, base: nn.Module | None = None, check_origin: bool = True
) -> Opening:
    """Checks that a rule has what its card needs.

    Raises:
        ModelError: fewer than two sources (more than two for a rule on two), weights that are no numbers, shapes that differ, networks from
            different initial weights (or not from the base) for a rule that does not align, no calibration data, labels, validation figure
            or base where needed.
    """
    if len(sources) < 2:
        raise ModelError(f"{card.title} merges several networks, and was given {len(sources)}", fix="give two sources or more")
    if card.sources == "two" and len(sources) > 2:
        raise ModelError(f"{card.title} merges two networks, and was given {len(sources)}", fix="merge them in pairs, or use mean")
    states = [unwrapped(source.module).state_dict() for source in sources]
    names = [source.name for source in sources]
    for name, state in zip(names, states, strict=True):
        require_finite(state, name)
    if "same_shapes" in card.needs:
        require_alike(states, names)
    start = None if base is None else unwrapped(base).state_dict()
    if "base" in card.needs and start is None:
        raise ModelError(f"{card.title} adds up what training changed, and the weights that it began with are not given", "base")
    if start is not None:
        require_finite(start, "base")
        require_alike([states[0], start], [names[0], "base"])
    require_data(card, calibration)
    notes = [f"'{names[one]}' and '{names[other]}' hold the same weights, so these count twice" for one, other in duplicates(states)]
    if "shared_origin" in card.needs and check_origin:
        if "base" in card.needs and start is not None:
            require_shared_origin([start, *states], ["base", *names])
        else:
            require_shared_origin(states, names)
    return Opening(list(sources), list(states), calibration, start, notes)


def refuse(card: MergeCard, sources: Sequence[Parent], calibration: Calibration | None, base: nn.Module | None, check_origin: bool) -> None:
    """What `opened` refuses, and layers that don't correspond where a rule leads units of other widths over.

    Raises:
        ModelError: these can't be merged by the rule.
    """
    opening = opened(card, sources, calibration, base, check_origin)
    if "same_shapes" in card.needs or "inputs" not in card.needs:
        return
    specifications = [trace(unwrapped(source.module), opening.example()) for source in sources]
    for specification in specifications[1:]:
        corresponding(specifications[0], specification)


def require_data(card: MergeCard, calibration: Calibration | None) -> None:
    """
    Raises:
        ModelError: there are no calibration data, or no validation figure, and the rule needs them.
    """
    if calibration is None and ({"inputs", "labels", "evaluate"} & set(card.needs)):
        raise ModelError(f"{card.title} needs calibration data", fix="give the data that the merged network is for")
    if "evaluate" in card.needs and calibration is not None and calibration.evaluate is None:
        raise ModelError(f"{card.title} chooses by a figure on validation data, and there is none", fix="give validation data with labels")


def require_finite(state: State, name: str) -> None:
    """
    Raises:
        ModelError: a weight is NaN or infinite; names it.
    """
    for tensor_name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"'{tensor_name}' of '{name}' holds NaN or infinite numbers", fix="leave this source out")


def duplicates(states: Sequence[State]) -> list[tuple[int, int]]:
    """Pairs of states with the same weights."""
    found = []
    for one in range(len(states)):
        for other in range(one + 1, len(states)):
            first, second = states[one], states[other]
            if first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first):
                found.append((one, other))
    return found


def require_shared_origin(states: Sequence[State], names: Sequence[str]) -> None:
    """
    Raises:
        ModelError: a network's units do not correspond to the first one's.
    """
    for name, state in zip(names[1:], states[1:], strict=True):
        origin = compare_origin(states[0], state)
        if not origin.shared:
            what = (
                f"'{names[0]}' and '{name}' were not trained from the same weights: only {origin.share:.0%} of their weights are in layers "
                f"whose units correspond (cosine {origin.cosine:.2f}), and a mean of units that don't correspond is neither"
            )
            raise ModelError(
                what, fix=f"align them (weight_matching, activation_matching), or {INSTEAD}; check_origin: false merges anyway"
            )


def finished(
    opening: Opening,
    state: State,
    repair: Repair,
    aligned: Sequence[nn.Module] | None = None,
    weights: Sequence[float] | None = None,
    figures: dict[str, Any] | None = None,
    joined: Joined | None = None,
) -> Merged:
    """The merged network, its statistics put right.

    Args:
        opening: what was merged.
        state: the merged weights.
        repair: auto: BatchNorm's statistics are re-estimated, and the units of aligned networks are repaired where no BatchNorm does it;
            reset: the former alone; units: both in any case; none: neither.
        aligned: the sources with their units in the merged network's order, for rules that align.
        weights: of the sources in the merge.
        figures: what was measured on the way.
        joined: see `repair_units`.

    Raises:
        ModelError: there are BatchNorm layers and no calibration data to re-estimate their statistics on.
    """
    module = copy.deepcopy(unwrapped(opening.sources[0].module))
    module.load_state_dict(dict(state))
    module.eval()
    merged = Merged(module, list(opening.notes), dict(figures or {}))
    if repair == "none":
        return merged
    layers = len(batch_norms(module))
    units = repair == "units" or (repair == "auto" and aligned is not None)
    if opening.calibration is None:
        if layers or repair == "units":
            what = "the merged network's activations have another scale than those of its sources, and there are no data to measure it on"
            raise ModelError(what, fix="give calibration data; repair: none keeps the averaged statistics")
        return merged
    if layers:
        reset_statistics(module, opening.inputs())
        merged.notes.append(f"the statistics of {layers} BatchNorm layers were re-estimated on calibration inputs")
    if units:
        parents = list(aligned) if aligned is not None else [source.module for source in opening.sources]
        ratios = repair_units(module, parents, opening.inputs, weights, joined=joined)
        if ratios:
            merged.figures["std before repair / std wanted"] = {path: round(ratio, 4) for path, ratio in ratios.items()}
            merged.notes.append(f"the units of {len(ratios)} layers were given back the mean and spread that they have in the sources")
        if layers and ratios:
            reset_statistics(module, opening.inputs())
    return merged
