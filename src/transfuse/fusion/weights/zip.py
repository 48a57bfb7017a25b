"""ZipIt: units that say the same are merged, across two networks and within each, whatever initial weights these had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.taps import unwrapped
from transfuse.fusion.alignment.matching import Activations, correlations
from transfuse.fusion.alignment.tracing import Specification, trace
from transfuse.fusion.alignment.transport import Bridge, axis_matrix, carried
from transfuse.fusion.states import State, require_alike, whole_numbers
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._alignment import require_groups
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="ZipIt",
    paper="Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, 2024, ICLR",
    link="https://arxiv.org/abs/2305.03053",
    needs=("same_shapes", "inputs"),
    cost="a forward pass of the calibration samples per source, and sorting the pairs of all units of each group",
    sources="two",
)


def zip(
    states: Sequence[State], specification: Specification, pairs: Mapping[str, Float[Tensor, "units two"]], base: State | None = None
) -> dict[str, Tensor]:
    """w = M_1 w_1 U_1 + M_2 w_2 U_2: the two networks side by side, with n of their 2n units left in each group.

    A merged unit is the mean of its pair (M) and stands for both wherever one of them was used (U). Outputs are the mean of both networks'.
    Merged networks have one architecture and one head, so everything before the outputs is merged; the paper's partial zip, which keeps
    two heads from some layer on, has no place in it.

    Args:
        states: of two networks of one architecture.
        specification: which units may be matched.
        pairs: group -> [n, 2]: which units become one; unit j of the second network is n + j.
        base: not looked at.

    Raises:
        ModelError: names or shapes differ.
    """
    require_alike(states)
    led = [carried(state, specification, _bridges(specification, pairs, number)) for number, state in enumerate(states)]
    made: dict[str, Tensor] = {}
    for name, first in states[0].items():
        tensors = [one[name] for one in led]
        if first.is_floating_point():
            made[name] = (_share(specification, name, set(pairs)) * torch.stack(tensors).sum(0)).to(first.dtype)
        else:
            made[name] = whole_numbers(name, tensors)
    return made


def _share(specification: Specification, name: str, zipped: set[str]) -> Tensor:
    """1 where merged units are made, whose means are in M already; 1/2 where something else is, such as outputs."""
    shape = specification.shapes[name]
    for axis in range(len(shape)):
        own = [(group, part) for group, part in specification.parts_of(name) if part.axis == axis and not part.consumes]
        if any(group.name in zipped for group, _ in own):
            share = torch.full((shape[axis],), 0.5, dtype=torch.float64)
            for group, part in own:
                if group.name in zipped:
                    share[part.start : part.start + part.outer * group.size * part.inner] = 1.0
            return share.view(-1, *[1] * (len(shape) - axis - 1))
    return torch.tensor(0.5, dtype=torch.float64)


def joined_channels(
    specification: Specification, pairs: Mapping[str, Float[Tensor, "units two"]], path: str, values: Sequence[Tensor]
) -> Float[Tensor, "channels"]:
    """A figure per output channel of a layer: of a merged unit the mean of its pair, of any other channel that of both networks.

    Args:
        specification: which units may be matched.
        pairs: see `zip`.
        path: of the layer.
        values: the figure in each network.
    """
    total, share = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for number, value in enumerate(values):
        matrix = axis_matrix(specification, f"{path}.weight", 0, _bridges(specification, pairs, number))
        total += value if matrix is None else matrix @ value
        share += 1 if matrix is None else matrix.sum(1)
    return total / share


def _bridges(specification: Specification, pairs: Mapping[str, Tensor], number: int) -> dict[str, Bridge]:
    return {name: _bridge(one, specification.groups[name].size, number) for name, one in pairs.items()}


def _bridge(pairs: Tensor, size: int, number: int) -> Bridge:
    """M and U of one of the two networks."""
    use = torch.zeros(len(pairs), size, dtype=torch.float64)
    for column in range(2):
        own = pairs[:, column] // size == number
        use[torch.arange(len(pairs))[own], pairs[own, column] % size] = 1.0
    return Bridge(make=use / 2, use=use)


def matched_pairs(activations: Activations, group: str, within: bool = True) -> Float[Tensor, "units two"]:
    """Pairs off the 2n units of a group, the most correlated first; see `zip`.

    Args:
        activations: of both networks.
        group: its name.
        within: whether two units of one network may become one.
    """
    cross = activations.correlation(group)
    own = [activations.correlation(group, (number, number)) for number in (0, 1)]
    size = len(cross)
    similarity = torch.cat([torch.cat([own[0], cross], 1), torch.cat([cross.T, own[1]], 1)])
    if not within:
        similarity[:size, :size] = similarity[size:, size:] = -torch.inf
    rows, columns = torch.triu_indices(2 * size, 2 * size, 1)
    order = similarity[rows, columns].argsort(descending=True, stable=True)
    free, pairs = [True] * (2 * size), []
    for one, other in torch.stack([rows[order], columns[order]], 1).tolist():
        if free[one] and free[other]:
            free[one] = free[other] = False
            pairs.append((one, other))
            if len(pairs) == size:
                break
    return torch.tensor(sorted(pairs))


class Zip:
    """Merges two sources unit by unit, also units of one and the same source.

    Args:
        within: whether two units of one source may become one; the paper's step beyond matching across.
        samples: how many calibration samples activations are compared on.
        repair: auto and reset re-estimate BatchNorm's statistics, as the paper does; units also gives those of layers without the mean and
            spread of their pairs; none leaves everything.
    """

    def __init__(self, within: bool = True, samples: Annotated[int, Ge(2)] = 2048, repair: Repair = "auto"):
        self.within, self.samples = within, samples
        self.repair: Repair = repair

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base)
        networks = [unwrapped(source.module) for source in sources]
        specification = trace(networks[0], opening.example())
        require_groups(specification, networks[0])
        activations = correlations(networks[0], networks[1], specification, opening.inputs(self.samples))
        pairs = {name: matched_pairs(activations, name, self.within) for name in specification.groups}
        sizes = {name: group.size for name, group in specification.groups.items()}
        inside = sum(int((one[:, 0] // sizes[name] == one[:, 1] // sizes[name]).sum()) for name, one in pairs.items())
        figures = {"pairs within one source": round(inside / sum(sizes.values()), 4)}
        state = zip(opening.states, specification, pairs)
        joined = partial(joined_channels, specification, pairs)
        return finished(opening, state, self.repair if self.repair != "auto" else "reset", figures=figures, joined=joined)
