"""Says whether the weights of trained networks can be merged, and why not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transfuse.core.taps import undisturbed, unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.matching import match_weights
from transfuse.fusion.alignment.permuting import with_permuted_units
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.alignment.transport import corresponding
from transfuse.fusion.origin import Origin, compare_origin
from transfuse.fusion.repair import LAYERS, batch_norms, moments, repair_units, reset_statistics
from transfuse.fusion.states import State, is_weight, mismatch_table, mismatches
from transfuse.fusion.types import Calibration, Parent
from transfuse.fusion.weights.weighted import weighted

Verdict = Literal["merge", "align", "same", "no"]
TOLERABLE = 0.1  # share of what the sources know that may be lost halfway
STRONG = 0.2  # share of a source's largest changes between which signs are compared, as TIES keeps them
INSTEAD = "use output or feature fusion"


@dataclass(frozen=True)
class Path:
    """The straight line between two networks' weights.

    Attributes:
        positions: 0 is the first network, 1 the second.
        losses: mean loss at each, BatchNorm's statistics re-estimated in between.
        ignorant: loss of a network that says nothing: all its outputs are 0.
        barrier: largest height of the loss above the straight line between its ends (Frankle et al., 2020, ICML).
        lost: share of what the better source knows that is lost halfway, (loss(1/2) - better) / (ignorant - better); of a repaired network
            where there is one and it is better. Negative where the merged network is better than both.
        variance_ratios: layer -> halfway, variance of its outputs over the mean of the ends' (Jordan et al., 2023, ICLR); 1 is no collapse.
        repaired: loss halfway with the units' mean and spread repaired, where that was tried.
    """

    positions: tuple[float, ...]
    losses: tuple[float, ...]
    ignorant: float
    barrier: float
    variance_ratios: dict[str, float]
    repaired: float | None = None

    @property
    def halfway(self) -> float:
        """Loss of the mean of both networks, repaired where that was tried and is better."""
        middle = self.losses[len(self.losses) // 2]
        return middle if self.repaired is None else min(middle, self.repaired)

    @property
    def lost(self) -> float:
        better = min(self.losses[0], self.losses[-1])
        return (self.halfway - better) / max(self.ignorant - better, 1e-12)

    def figures(self) -> dict[str, Any]:
        """Ready for JSON."""
        return vars(self) | {"lost halfway": self.lost}


@dataclass
class Pair:
    """One source beside the first.

    Attributes:
        names: of both.
        same: whether all weights are equal.
        origin: whether they were trained from the same weights, as the weights tell; None where no layer is large enough to tell.
        sign_conflicts: share of weights with opposite signs; with a base, of changes that are among the largest fifth of both sources.
        path: the straight line between them; None without calibration data.
        aligned_path: the same after weight matching and repair, where they were not trained from the same weights.
    """

    names: tuple[str, str]
    same: bool = False
    origin: Origin | None = None
    sign_conflicts: float | None = None
    path: Path | None = None
    aligned_path: Path | None = None


@dataclass
class Diagnosis:
    """What was found.

    Attributes:
        verdict: merge: as they are; align: after their units were brought into one order; same: there is nothing to merge; no.
        reason: the verdict in words, with what to do.
        pairs: every source beside the first, as far as was looked.
        mismatches: (tensor, its shape in each source, None where it is missing).
        distances: source -> |w - w_base| / |w_base|, where a base is given.
        notes: what else was noticed.
    """

    verdict: Verdict
    reason: str
    pairs: list[Pair] = field(default_factory=list)
    mismatches: list[tuple[str, list[tuple[int, ...] | None]]] = field(default_factory=list)
    distances: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def mergeable(self) -> bool:
        """Whether some rule on weights makes sense."""
        return self.verdict in ("merge", "align")

    def figures(self) -> dict[str, Any]:
        """Ready for JSON."""
        pairs = []
        for pair in self.pairs:
            origin = pair.origin
            shown: dict[str, Any] = {"sources": list(pair.names), "same weights": pair.same, "sign conflicts": pair.sign_conflicts}
            if origin is not None:
                shown |= {"same initial weights": origin.shared, "cosine": origin.cosine, "units correspond in": origin.share}
            for name, path in (("path", pair.path), ("path after alignment", pair.aligned_path)):
                shown[name] = None if path is None else path.figures()
            pairs.append(shown)
        return {"verdict": self.verdict, "reason": self.reason, "pairs": pairs, "distances to base": self.distances, "notes": self.notes}


def diagnose(
    sources: Sequence[Parent],
    calibration: Calibration | None = None,
    base: nn.Module | None = None,
    samples: int = 1000,
    points: int = 5,
) -> Diagnosis:
    """Whether the sources' weights can be merged: shapes, numbers, copies, common origin, signs, and the loss on the way between them.

    Every source is compared with the first one, the others are not compared with each other: each comparison walks a line.

    Args:
        sources: two or more networks.
        calibration: labelled data for the loss on the way; without, or without a label, the verdict rests on the weights alone.
        base: the weights that the sources were trained from, where known.
        samples: how many calibration samples.
        points: how many points of each line, its ends included.

    Raises:
        ModelError: fewer than two sources.
    """
    if len(sources) < 2:
        raise ModelError(f"a merge takes two networks or more, and there are {len(sources)}")
    names, states = [source.name for source in sources], [unwrapped(source.module).state_dict() for source in sources]
    broken = _broken(sources, states, calibration)
    if broken:
        return Diagnosis("no", f"these cannot be merged, because {'; '.join(broken)}. Leave such sources out.")
    rows = mismatches(states)
    if rows:
        return _of_different_shapes(sources, rows, calibration)
    found = Diagnosis("merge", "")
    start = None if base is None else unwrapped(base).state_dict()
    if start is not None and not mismatches([states[0], start]):
        found.distances = {name: _distance(state, start) for name, state in zip(names, states, strict=True)}
    for number in range(1, len(sources)):
        pair = Pair((names[0], names[number]), same=_equal(states[0], states[number]))
        found.pairs.append(pair)
        if pair.same:
            found.notes.append(f"'{names[0]}' and '{names[number]}' are copies of the same network")
            continue
        pair.sign_conflicts = sign_conflicts(states[0], states[number], start)
        pair.origin = _origin(states[0], states[number])
        if calibration is not None and calibration.loss is not None:
            pair.path = path_between(sources[0].module, sources[number].module, calibration, samples, points)
            if pair.path.lost > TOLERABLE:
                pair.aligned_path = _after_alignment(sources[0].module, sources[number].module, calibration, samples, points)
    if calibration is not None and calibration.loss is None:
        found.notes.append("no calibration sample has a label, so the loss on the way between the sources was not measured")
    if len(sources) > 2:
        found.notes.append(f"every source was compared with the first, '{names[0]}'; the others were not compared with each other")
    found.verdict, found.reason = _verdict(found.pairs)
    return found


def _verdict(pairs: Sequence[Pair]) -> tuple[Verdict, str]:
    apart = [pair for pair in pairs if not pair.same]
    if not apart:
        return "same", "these are copies of one network: a merge of them is that network again. Leave the copies out."
    worst = max(apart, key=lambda pair: pair.path.lost if pair.path else float(not (pair.origin and pair.origin.shared)))
    names = f"'{worst.names[0]}' and '{worst.names[1]}'"
    shared = worst.origin is None or worst.origin.shared
    come = "come from the same initial weights" if shared else "come from different initial weights"
    if worst.origin is None:
        come = "may come from the same initial weights (no layer is large enough to tell)"
    if worst.path is None:
        if shared:
            unknown = "without labelled data nothing is known of the loss on the way between them"
            so = ", so their units correspond" if worst.origin is not None else ""
            return "merge", f"{names} {come}{so}; {unknown}."
        return "align", f"these cannot be merged as they are, because {names} {come}: align them (weight_matching), or {INSTEAD}."
    way = f"the loss rises from {min(worst.path.losses[0], worst.path.losses[-1]):.3g} to {worst.path.halfway:.3g} halfway between them"
    if worst.path.lost <= TOLERABLE:
        return (
            "merge",
            f"{names} {come} and lose {max(worst.path.lost, 0):.1%} of what the better one knows halfway between them: they can be merged.",
        )
    if all(one.path is None or min(one.path.lost, _lost_after(one)) <= TOLERABLE for one in apart):
        after = f"after weight matching and repair it is {(worst.aligned_path or worst.path).halfway:.3g}"
        return "align", f"these cannot be merged as they are, because {names} {come} and {way}; {after}: align them, then merge."
    tried = "" if worst.aligned_path is None else f" ({worst.aligned_path.halfway:.3g} after weight matching)"
    return "no", f"these cannot be merged, because {names} {come} and {way}{tried}: {INSTEAD}."


def _lost_after(pair: Pair) -> float:
    return float("inf") if pair.aligned_path is None else pair.aligned_path.lost


def path_between(first: nn.Module, second: nn.Module, calibration: Calibration, samples: int = 1000, points: int = 5) -> Path:
    """The loss along w(t) = (1 - t) w_1 + t w_2, and the variance of activations halfway.

    Args:
        first, second: of one architecture.
        calibration: labelled samples.
        samples: how many.
        points: odd, so that the middle is among them; an even number is rounded up.
    """
    points = max(3, points + 1 - points % 2)
    batches = [(inputs, labels) for inputs, labels in calibration.batches(samples)]
    states = [unwrapped(one).state_dict() for one in (first, second)]
    network = copy.deepcopy(unwrapped(first))
    losses, variances, ignorant = [], {}, 0.0
    for number in range(points):
        t = number / (points - 1)
        network.load_state_dict(weighted(states, [1 - t, t]))
        if 0 < number < points - 1:
            reset_statistics(network, (inputs for inputs, _ in batches))
        given = [_outputs(network, inputs) for inputs, _ in batches]
        losses.append(_mean_loss(calibration, given, batches))
        if t in (0.0, 0.5, 1.0):
            layers = [path for path, layer in network.named_modules() if isinstance(layer, LAYERS)]
            variances[t] = moments(network, layers, (inputs for inputs, _ in batches))
        ignorant = _mean_loss(calibration, [torch.zeros_like(one) for one in given], batches)
    positions = tuple(number / (points - 1) for number in range(points))
    heights = [loss - (1 - t) * losses[0] - t * losses[-1] for t, loss in zip(positions, losses, strict=True)]
    return Path(positions, tuple(losses), ignorant, max(heights), _ratios(variances))


def _ratios(variances: dict[float, Any]) -> dict[str, float]:
    ratios = {}
    for path, middle in variances[0.5].items():
        if not middle.count:
            continue
        ends = (variances[0.0][path].std.square() + variances[1.0][path].std.square()) / 2
        alive = ends > 1e-12
        if alive.any():
            ratios[path] = float((middle.std.square()[alive] / ends[alive]).mean())
    return ratios


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with undisturbed(network):
        return network(inputs)


def _mean_loss(calibration: Calibration, outputs: Sequence[Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Over the samples that have a label."""
    assert calibration.loss is not None
    values = torch.cat([calibration.loss(given, labels) for given, (_, labels) in zip(outputs, batches, strict=True)])
    return float(values.double().nanmean())


def _after_alignment(first: nn.Module, second: nn.Module, calibration: Calibration, samples: int, points: int) -> Path | None:
    """The line between the first network and the second with its units in the first one's order; None where that can't be done."""
    example = torch.cat([inputs for inputs, _ in islice(calibration.batches(4), 1)])
    try:
        specification = trace(first, example)
        order = match_weights(unwrapped(first).state_dict(), unwrapped(second).state_dict(), specification)
        moved = with_permuted_units(second, specification, order, example)
    except ModelError:
        return None
    path = path_between(first, moved, calibration, samples, points)
    middle = copy.deepcopy(unwrapped(first))
    middle.load_state_dict(weighted([unwrapped(first).state_dict(), moved.state_dict()], [0.5, 0.5]))
    inputs = [batch for batch, _ in calibration.batches(samples)]
    reset_statistics(middle, inputs)
    repair_units(middle, [unwrapped(first), moved], lambda: inputs)
    if batch_norms(middle):
        reset_statistics(middle, inputs)
    batches = list(calibration.batches(samples))
    return replace(path, repaired=_mean_loss(calibration, [_outputs(middle, batch) for batch in inputs], batches))


def sign_conflicts(first: State, second: State, base: State | None = None) -> float:
    """Share of weights with opposite signs; about 1/2 for networks that have nothing to do with each other.

    With a base: of the changes that are among the largest fifth of both sources (those that TIES keeps), the share with opposite signs; 0
    where there are none.
    """
    names = [name for name, tensor in first.items() if is_weight(name, tensor)]
    known = {name: base[name].double() if base is not None else torch.zeros(()) for name in names}
    one, other = (torch.cat([(state[name].double() - known[name]).flatten() for name in names]) for state in (first, second))
    if base is not None:
        count = max(1, round(STRONG * one.numel()))
        kept = torch.zeros_like(one, dtype=torch.bool).scatter(0, one.abs().topk(count).indices, True)
        kept &= torch.zeros_like(kept).scatter(0, other.abs().topk(count).indices, True)
    else:
        kept = (one != 0) & (other != 0)
    return float((one[kept].sign() != other[kept].sign()).double().mean()) if kept.any() else 0.0


def _broken(sources: Sequence[Parent], states: Sequence[State], calibration: Calibration | None) -> list[str]:
    """What makes a source unusable: weights or outputs that are no numbers, the same output for every input."""
    found = []
    for source, state in zip(sources, states, strict=True):
        bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
        if bad:
            found.append(f"'{bad[0]}' of '{source.name}' holds NaN or infinite numbers")
            continue
        if calibration is None:
            continue
        outputs = torch.cat([_outputs(source.module, inputs) for inputs, _ in calibration.batches(64)])
        if not bool(torch.isfinite(outputs).all()):
            found.append(f"'{source.name}' gives NaN or infinite outputs")
        elif len(outputs) > 1 and float(outputs.std(0).max()) <= 1e-6 * float(outputs.abs().max()):
            found.append(f"'{source.name}' gives the same output for every input")
    return found


def _of_different_shapes(
    sources: Sequence[Parent], rows: list[tuple[str, list[tuple[int, ...] | None]]], calibration: Calibration | None
) -> Diagnosis:
    table = mismatch_table(rows, [source.name for source in sources])
    found = Diagnosis("no", "", mismatches=rows)
    if calibration is not None and all(None not in shapes for _, shapes in rows):
        example = torch.cat([inputs for inputs, _ in islice(calibration.batches(4), 1)])
        try:
            specifications = [trace(source.module, example) for source in sources]
            for specification in specifications[1:]:
                corresponding(specifications[0], specification)
            found.verdict = "align"
            found.reason = f"these have the same layers in different widths: only `ot` can merge them; otherwise {INSTEAD}.\n{table}"
            return found
        except (ModelError, RuntimeError):
            pass
    found.reason = f"these cannot be merged, because {len(rows)} of their tensors have different shapes: {INSTEAD}.\n{table}"
    return found


def _equal(first: State, second: State) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def _origin(first: State, second: State) -> Origin | None:
    try:
        return compare_origin(first, second)
    except ModelError:
        return None


def _distance(state: State, base: State) -> float:
    names = [name for name, tensor in base.items() if is_weight(name, tensor)]
    changed = sum(float((state[name].double() - base[name].double()).square().sum()) for name in names)
    length = sum(float(base[name].double().square().sum()) for name in names)
    return (changed / max(length, 1e-300)) ** 0.5
