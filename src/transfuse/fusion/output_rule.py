"""What all rules on outputs share: a temperature per source, the sources' answers as log-probabilities, and state that can be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.numerics import at_least_fp32, log_bernoulli_at, log_softmax_at
from transfuse.fusion.temperature import fit_temperatures

Outputs = Float[Tensor, "sources samples outputs"]


class OutputRule(nn.Module, ABC):
    """One answer out of several: `fit(outputs, labels)`, then `fuse(outputs)`.

    `outputs` are what each source says about the same samples, float [sources, samples, outputs]: logits for classes, one log-odds per
    class for a multilabel task, standardised predictions for a regression. `fuse` gives [samples, outputs]: log-probabilities that sum to
    1, log-odds, or predictions. State is buffers, of which `build` fixes the shapes, so that a rule is saved, loaded and exported like any
    module; `forward` is `fuse`.

    Args:
        task: what the outputs mean.
        calibrate: fit a temperature to each source first, so that one that is too sure of itself does not drown the others.

    Raises:
        ValueError: `calibrate` for a regression, whose predictions have no temperature.
    """

    temperatures: Tensor

    def __init__(self, task: TaskName = "classification", calibrate: bool = False):
        super().__init__()
        if calibrate and task == "regression":
            raise ValueError("calibrate: predictions of a regression have no temperature")
        self.task: TaskName = task
        self.calibrate = calibrate

    def build(self, sources: int, outputs: int) -> None:
        """Makes the buffers in their neutral state, before any fit; `load_state_dict` fills them."""
        self.register_buffer("temperatures", torch.ones(sources))
        self.prepare(sources, outputs)

    def prepare(self, sources: int, outputs: int) -> None:
        """The rule's own buffers; most have none."""

    def fit(self, outputs: Outputs, labels: Tensor) -> None:
        """Learns what there is to learn, from labelled samples that none of the sources was trained on.

        Args:
            outputs: of all sources, on the same samples.
            labels: int [samples] (-1: none), multi-hot or float [samples, outputs] (NaN: none). Samples without a label are left out.
        """
        known = labelled(labels)
        outputs, labels = outputs[:, known].double(), labels[known]
        self.build(outputs.shape[0], outputs.shape[2])
        if self.calibrate:
            self.temperatures.copy_(fit_temperatures(outputs, labels, self.task))
        self.learn(outputs / self.temperatures.double()[:, None, None], labels)

    def learn(self, outputs: Outputs, labels: Tensor) -> None:
        """The rule's own part of `fit`, after the temperatures: float64, labelled samples only."""

    def fuse(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        """One answer per sample, at least in fp32."""
        outputs = at_least_fp32(outputs)
        if self.calibrate:
            outputs = outputs / self.temperatures.to(outputs)[:, None, None]
        return self.join(outputs)

    @abstractmethod
    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        """The rule's own part of `fuse`, after the temperatures."""

    def forward(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return self.fuse(outputs)

    def source_weights(self) -> Tensor | None:
        """float [sources] that sum to 1, where the rule gives each source a weight; else None."""
        return None


def labelled(labels: Tensor) -> Tensor:
    """bool [samples]: which samples have a label."""
    if not torch.is_floating_point(labels):
        return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)
    return ~labels.isnan() if labels.ndim == 1 else ~labels.isnan().any(1)


def log_probabilities(outputs: Tensor, task: TaskName) -> Tensor:
    """[..., outputs] -> log p: over the classes, or [..., outputs, 2] of yes and no for each class of a multilabel task."""
    return log_bernoulli_at(outputs) if task == "multilabel" else log_softmax_at(outputs)


def as_answer(log_p: Tensor, task: TaskName) -> Tensor:
    """What `log_probabilities` has split, in the form of a rule's answer: log-odds of a multilabel task, else as it is."""
    return log_p[..., 0] - log_p[..., 1] if task == "multilabel" else log_p


def of_label(log_p: Tensor, labels: Tensor, task: TaskName) -> Tensor:
    """log p of what is true: [sources, n], n samples, or samples x classes of a multilabel task."""
    if task == "multilabel":
        return torch.where(labels > 0.5, log_p[..., 0], log_p[..., 1]).flatten(1)
    return log_p[:, torch.arange(len(labels)), labels]
