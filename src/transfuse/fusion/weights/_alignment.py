"""What the rules that align have in common: tracing, reordering with proof, and the mean of the aligned weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from transfuse.core.taps import unwrapped
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import with_permuted_units
from transfuse.fusion.alignment.tracing import Specification, trace
from transfuse.fusion.types import Merged, Repair
from transfuse.fusion.weights._assembly import Opening, finished
from transfuse.fusion.weights.weighted import weighted

Match = Callable[[int, Specification], dict[str, Tensor]]  # position of a source -> its units in the order of the first source's


def merge_aligned(opening: Opening, match: Match, repair: Repair) -> Merged:
    """Brings every source's units into the order of the first one's and averages by the sources' weights.

    Each reordered network is compared with its original on calibration inputs; see `with_permuted_units`.

    Raises:
        ModelError: no units can be reordered, or a network computes something else afterwards.
    """
    first, example = unwrapped(opening.sources[0].module), opening.example()
    specification = trace(first, example)
    require_groups(specification, first)
    aligned: list[nn.Module] = [first]
    moved: dict[str, float] = {}
    for number, source in enumerate(opening.sources[1:], 1):
        permutations = match(number, specification)
        aligned.append(with_permuted_units(source.module, specification, permutations, example))
        moved[source.name] = _moved(permutations)
    weights = [source.weight for source in opening.sources]
    state = weighted([network.state_dict() for network in aligned], weights)
    opening.notes.append(f"{len(specification.groups)} groups of units were brought into the order of '{opening.sources[0].name}'")
    return finished(opening, state, repair, aligned, weights, {"share of units moved": moved})


def require_groups(specification: Specification, module: nn.Module) -> None:
    """
    Raises:
        ModelError: nothing can be reordered.
    """
    if not specification.groups:
        what = f"no units of {type(module).__name__} were found that can be reordered"
        raise ModelError(what, fix="use output or feature fusion")


def _moved(permutations: dict[str, Tensor]) -> float:
    total = sum(len(permutation) for permutation in permutations.values())
    stayed = sum(int((permutation == permutation.sort().values).sum()) for permutation in permutations.values())
    return round(1 - stayed / total, 4)
