"""The modules that a network runs before its head, and what form their outputs have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn

from transfuse.core.outputs import run
from transfuse.core.taps import undisturbed


class Call(NamedTuple):
    """One module's run: what it was given first, and the tensor that it gave."""

    path: str
    module: nn.Module
    given: Any
    made: Tensor


def calls_before(network: nn.Module, head: str, example: Any) -> list[Call]:
    """The modules that gave a tensor, in the order in which they were done, up to the head."""
    calls: list[Call] = []
    done: list[bool] = []

    def note(path: str) -> Any:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            if path == head:
                done.append(True)
            elif not done and isinstance(made, Tensor):
                calls.append(Call(path, module, given[0] if given else None, made))

        return hook

    with undisturbed(network), ExitStack() as hooks:
        for path, module in network.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(note(path)).remove)
        run(network, example)
    return calls


def dimensions_of(calls: Sequence[Call]) -> int | None:
    """Of the positions of the map that the last of these modules gave; None where it gave none, but tokens or a vector."""
    made = calls[-1].made
    if made.ndim == 4:
        return None if made.shape[1] == made.shape[2] < made.shape[3] else 2  # [batch, height, width, channels] is no such map
    if made.ndim == 3:  # a sequence of channels where a convolution was the last layer with weights, else tokens
        weighted = (call.module for call in reversed(calls) if isinstance(call.module, (nn.Conv1d, nn.Linear, nn.LayerNorm, nn.Embedding)))
        return 1 if isinstance(next(weighted, None), nn.Conv1d) else None
    return None
