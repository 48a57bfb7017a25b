"""Begins with the first entries of each of a larger network's tensors times a number: the naive baseline."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.policies.init._scene import Moved, Row, Scene, written

CARD = Card(title="Scaled copy", level="parameters", tasks=("classification", "multilabel", "regression"))


def leading_part(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The first entries along each axis; None where the tensor is smaller, or has other dimensions."""
    if value.ndim != len(shape) or any(own < wanted for own, wanted in zip(value.shape, shape, strict=True)):
        return None
    return value[tuple(slice(wanted) for wanted in shape)]


class ScaledCopy:
    """theta_small = alpha * theta_large, tensor by tensor under the same name, of each axis the first entries.

    It knows nothing of units, layers or scales, and is here to be compared with. Buffers such as BatchNorm's statistics are copied as
    they are.

    Args:
        alpha: the factor.
    """

    def __init__(self, alpha: Annotated[float, Gt(0)] = 1.0):
        self.alpha = alpha

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        other, parameters = source.state_dict(), dict(target.named_parameters())
        values, rows = {}, []
        for name, value in target.state_dict().items():
            part = leading_part(other[name], tuple(value.shape)) if name in other else None
            if part is None:
                why = "the source's is smaller" if name in other else "the source has no such tensor"
                rows.append(Row(name, "left", "", tuple(value.shape), tuple(other[name].shape) if name in other else (), why))
                continue
            values[name] = part * self.alpha if name in parameters else part
            rows.append(Row(name, "scaled" if name in parameters else "copied", name, tuple(value.shape), tuple(other[name].shape)))
        return written(target, values, rows, set(values), source)
