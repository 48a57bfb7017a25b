"""Pictures turned by quarters: four times the samples in one forward pass, and what was said about them, taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from transfuse.core.types import Batch, Signals, Step

TURNS = 4


def with_turns(batch: Batch) -> Batch:
    """The batch upright, then all of it turned by 90, by 180 and by 270 degrees.

    Raises:
        ValueError: its inputs are not square pictures, whose turns have another shape.
    """
    inputs = batch.inputs
    if inputs.ndim != 4 or inputs.shape[2] != inputs.shape[3]:
        raise ValueError(f"inputs of shape {list(inputs.shape)} are not square pictures, so they can't be turned by quarters")
    rows = torch.arange(len(batch), device=batch.ids.device).repeat(TURNS)
    return replace(batch.select(rows), inputs=torch.cat([torch.rot90(inputs, turn, (2, 3)) for turn in range(TURNS)]))


def taken_apart(batch: Batch, student: Signals, teachers: Mapping[str, Signals], progress: float) -> Step:
    """A step on the upright pictures, with `rotations`.

    Args:
        batch: as `with_turns` gives it.
        student: its signals on all of it.
        teachers: by name; those that were shown the upright pictures only take no part in the rotations.
        progress: fraction of training done.
    """
    size = len(batch) // TURNS
    steps = []
    for turn in range(TURNS):
        rows = slice(turn * size, (turn + 1) * size)
        shown = {name: signals.select(rows) for name, signals in teachers.items() if turn == 0 or len(signals.logits) == len(batch)}
        steps.append(Step(batch.select(rows), student.select(rows), shown, progress))
    return replace(steps[0], rotations=tuple(steps[1:]))
