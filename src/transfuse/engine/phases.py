"""Steps of several updates: what one of them leaves as it is, and what the log says of all of them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn


def forget_gradients(module: nn.Module, trained: Collection[nn.Parameter] | None) -> None:
    """Leaves the parameters that a phase doesn't train as they are: no gradient, so no decay and no running mean either.

    Args:
        module: whose gradients were computed.
        trained: what the phase trains; None: everything.
    """
    if trained is None:
        return
    kept = {id(parameter) for parameter in trained}  # by identity: equal values are not the same parameter
    for parameter in module.parameters():
        if id(parameter) not in kept:
            parameter.grad = None


def over_phases(rows: list[tuple[list[str], Tensor]]) -> tuple[list[str], Tensor]:
    """A step's names and values: the loss summed over its phases, each term averaged over the phases that have it.

    Args:
        rows: per phase, "loss" and the names of its terms, and their values.
    """
    if len(rows) == 1:
        return rows[0]
    table: dict[str, list[Tensor]] = {}
    for names, values in rows:
        for name, value in zip(names, values.unbind(), strict=True):
            table.setdefault(name, []).append(value)
    values = [torch.stack(found).sum() if name == "loss" else torch.stack(found).mean() for name, found in table.items()]
    return list(table), torch.stack(values)


def parts_of(samples: int, parts: int) -> list[slice]:
    """The rows of a batch in so many parts, one after the other, whose sizes differ by one at most; no part is empty."""
    size, larger = divmod(samples, min(parts, samples))
    bounds = [number * size + min(number, larger) for number in range(min(parts, samples) + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]
