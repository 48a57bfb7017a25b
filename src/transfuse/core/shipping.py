"""What an export target is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model

Part = Literal["train", "val"]


@dataclass
class ExportRequest:
    """What an export target is given.

    Attributes:
        model: trained, in eval mode, on the CPU, with its preprocessing.
        task: what its outputs mean.
        raw: a few samples as they are stored, [n, channels, height, width] or [n, columns]; their form decides the file's inputs.
        calibration: (up to so many samples, of which part) -> batches of preprocessed inputs; None where there are no such samples at hand.
        folder: where the target's files go; it exists.
        arrays: whether the samples are arrays, of which pictures that have the network's size already are taken as they are
            (`Preprocess.exact_batch`), and not files, which are cropped whatever their size.
    """

    model: Model
    task: TaskName
    raw: Tensor
    calibration: Callable[[int, Part], Iterator[Tensor]] | None
    folder: Path
    arrays: bool = False

    @property
    def preprocess(self) -> Preprocess:
        """The model's own."""
        if self.model.preprocess is None:
            raise TypeError(f"{self.model.source} has no preprocessing")
        return self.model.preprocess

    @property
    def example(self) -> Tensor:
        """Two inputs of the network that hold no data: what it is traced with must not travel in the file."""
        shape = self.preprocess.exact_batch(self.raw[:1]).shape[1:]
        return torch.linspace(-1, 1, 2 * shape.numel()).reshape(2, *shape)


@dataclass
class Written:
    """What an export target wrote.

    Attributes:
        file: the file that is shipped.
        facts: what a reader needs to know of it (opset, layers that were quantised); kept in verify.json.
        notes: what the user should be told.
        beside: name -> network in another form, with which the file's speed is compared too.
    """

    file: Path
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    beside: dict[str, nn.Module] = field(default_factory=dict)
