"""What adversarial objectives share: a gradient that turns round on its way to the student, and a small network that is the opponent."""

import itertools
import math

from torch import Tensor, nn

from transfuse.core.bridges import channels_of


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """The same values; their gradient is multiplied by -strength."""
    fixed = values.detach()
    return fixed - strength * (values - fixed)


def strength_at(progress: float, highest: float, rise: float) -> float:
    """highest * (2 / (1 + exp(-rise * progress)) - 1): from 0 at the start to almost `highest`, so that the opponent learns first."""
    return highest * (2 / (1 + math.exp(-rise * progress)) - 1)


def opponent(inputs: int, hidden: int, outputs: int, layers: int = 2) -> nn.Sequential:
    """Linear layers with ReLUs between them; no BatchNorm and no dropout, so that a value doesn't depend on the mix of domains."""
    widths = [inputs, *[hidden] * layers]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


def feature_width(shapes: dict[str, tuple[int, ...]]) -> int:
    """How long the vector of the deepest tapped feature is.

    Raises:
        ValueError: nothing is tapped.
    """
    if not shapes:
        raise ValueError("no feature of the student is tapped; name one with student_tap, usually its last feature")
    return channels_of(list(shapes.values())[-1])
