"""A new linear head on a frozen network, fitted to some labelled samples: it tells what the network's features are worth for the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.last_layers import END_IN_ONE, last_layers
from transfuse.core.numerics import at_least_fp32
from transfuse.core.taps import unwrapped
from transfuse.core.types import Trial

DECAY = 0.01  # weight of L2 / 2 on the head; without it the loss on a few hundred samples that can be told apart has no minimum
ROUNDS = 200


@dataclass(frozen=True)
class NewHead:
    """A network that ends in a head of its own making.

    Attributes:
        trial: the network, and the task's loss.
        layer: its own last layer, of which only what it is given counts.
        weight: float [outputs, width + 1]; the last column is the bias.
    """

    trial: Trial
    layer: nn.Module
    weight: Float[Tensor, "outputs columns"]

    def losses(self, inputs: Tensor, labels: Tensor) -> Float[Tensor, "batch"]:
        """The label loss of every sample."""
        return self.trial.loss(_given(self.trial.network, self.layer, inputs) @ self.weight.T, labels)


def fit_head(trial: Trial, outputs: int, samples: int) -> NewHead:
    """The head of least mean label loss + DECAY / 2 |weight|^2 on up to so many samples, found by L-BFGS.

    Raises:
        ValueError: there is no sample, or a label is no class of so many outputs.
        ModelError: the network has no last layer, or several.
    """
    layer: nn.Module | None = None
    rows, found = [], []
    for inputs, labels in trial.batches(samples):
        layer = _last_layer(trial, inputs) if layer is None else layer
        with torch.no_grad():
            rows.append(_given(trial.network, layer, inputs))
        found.append(labels)
    if layer is None:
        raise ValueError("there is no labelled training sample to fit a head to")
    labels = torch.cat(found)
    _require_known(trial, labels, outputs)
    return NewHead(trial, layer, _fitted(trial, torch.cat(rows), labels, outputs))


def _fitted(trial: Trial, features: Float[Tensor, "samples columns"], labels: Tensor, outputs: int) -> Float[Tensor, "outputs columns"]:
    # in float64: the weak decay is all that bends the loss along some directions, and fp32 can't see it there to more than 3 digits
    features, labels = features.double(), labels.double() if labels.is_floating_point() else labels
    weight = torch.zeros(outputs, features.shape[1], dtype=features.dtype, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=ROUNDS, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = trial.loss(features @ weight.T, labels).mean() + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)  # type: ignore[arg-type]
    return weight.detach().float()


def _last_layer(trial: Trial, inputs: Tensor) -> nn.Module:
    found = last_layers(trial.network, inputs[:1])
    if len(found) > 1:
        paths = ", ".join(path for path, _ in found)
        raise ValueError(
            f"the teacher's outputs are made by {len(found)} last layers ({paths}), and a new head takes the place of one; {END_IN_ONE}"
        )
    return found[0][1]


def _require_known(trial: Trial, labels: Tensor, outputs: int) -> None:
    highest = int(labels.max()) if trial.task == "classification" else -1
    if highest >= max(outputs, 2):  # a single output tells two classes apart
        raise ValueError(f"labels up to class number {highest}, and the student has {outputs} outputs; give it one output per class")


def _given(network: nn.Module, layer: nn.Module, inputs: Tensor) -> Float[Tensor, "batch columns"]:
    """What a layer is given, averaged over positions, and a column of ones."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, given: tuple[Any, ...], _made: Any) -> None:
        seen.append(given[0])

    hook = layer.register_forward_hook(note)
    try:
        unwrapped(network)(inputs)
    finally:
        hook.remove()
    values = at_least_fp32(seen[-1])
    positions = tuple(range(1, values.ndim - 1) if isinstance(layer, nn.Linear) else range(2, values.ndim))
    values = values.mean(positions) if positions else values
    return torch.cat([values, torch.ones_like(values[:, :1])], 1)
