"""Whether two networks come from the same initial weights, told from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transfuse.errors import ModelError
from transfuse.fusion.states import State, is_weight

FEWEST_UNITS, MOST_UNITS = 8, 1024  # rows of a weight that are compared
SIGNIFICANT = 4.0  # standard errors


@dataclass(frozen=True)
class Origin:
    """How much the units of two networks correspond, one by one.

    Attributes:
        shared: whether most weights are in tensors whose units correspond.
        share: of the weights that are in such tensors.
        cosine: of the two weight vectors as a whole.
        layers: tensor -> (mean cosine of corresponding units, of others, their difference in standard errors).
    """

    shared: bool
    share: float
    cosine: float
    layers: dict[str, tuple[float, float, float]]


def compare_origin(first: State, second: State) -> Origin:
    """Compares unit i of one network with unit i of the other, and with all the other units.

    Training moves units, but does not swap them. So after training from the same initial weights, incoming weights of unit i resemble
    each other more than those of units i and j. From different initial weights the order of units is arbitrary, and there is no
    difference but chance: a mean of n cosines, whose standard error is that of the others over the square root of n. A tensor counts as
    corresponding above 4 standard errors; the networks do where such tensors hold more than half of the weights. The order may also have
    been made equal afterwards, by alignment.

    Raises:
        ModelError: there is no weight with at least 8 units.
    """
    layers, shared, total = {}, 0, 0
    product, norms = 0.0, [0.0, 0.0]
    for name, tensor in first.items():
        if name not in second or second[name].shape != tensor.shape or not is_weight(name, tensor):
            continue
        one, other = tensor.double(), second[name].double()
        product += float((one * other).sum())
        norms = [norms[0] + float(one.square().sum()), norms[1] + float(other.square().sum())]
        if one.ndim < 2 or len(one) < FEWEST_UNITS:
            continue
        rows = [torch.nn.functional.normalize(values.flatten(1)[:MOST_UNITS], dim=1) for values in (one, other)]
        cosines = rows[0] @ rows[1].T
        apart = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
        together = float(cosines.diagonal().mean())
        errors = (together - float(apart.mean())) / max(float(apart.std()) / len(cosines) ** 0.5, 1e-12)
        layers[name] = (together, float(apart.mean()), errors)
        total += tensor.numel()
        shared += tensor.numel() if errors > SIGNIFICANT else 0
    if not layers:
        raise ModelError(f"no weight has {FEWEST_UNITS} units or more, so nothing tells whether the networks share their initial weights")
    length = max((norms[0] * norms[1]) ** 0.5, 1e-300)
    return Origin(shared / total > 0.5, shared / total, product / length, layers)
