"""The geometric ensemble: the mean of the sources' logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.card import Card, TaskName
from transfuse.core.numerics import log_softmax_at
from transfuse.fusion.output_rule import OutputRule, Outputs

CARD = Card(
    title="Mean of logits (logarithmic opinion pool)",
    paper="Hinton, 2002, Neural Computation (products of experts)",
    link="https://doi.org/10.1162/089976602760128018",
    tasks=("classification", "multilabel", "regression"),
    cost="nothing is fitted",
)


def mean_logits(outputs: Outputs, task: TaskName = "classification") -> Float[Tensor, "samples outputs"]:
    """log softmax((1/S) sum_s z_s), which is the geometric mean of the probabilities, normalised: one source can veto a class.

    Of a multilabel task the mean log-odds; of a regression the mean prediction.

    Args:
        outputs: logits or predictions [sources, samples, outputs].
        task: what they mean.
    """
    mean = outputs.mean(0)
    return log_softmax_at(mean) if task == "classification" else mean


class MeanLogits(OutputRule):
    """The mean of the sources' logits (of their predictions for a regression).

    Args:
        task: what the outputs mean.
        calibrate: fit a temperature to each source first.
    """

    def __init__(self, task: TaskName = "classification", calibrate: bool = False):
        super().__init__(task, calibrate)

    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return mean_logits(outputs, self.task)

    def source_weights(self) -> Tensor:
        return torch.full_like(self.temperatures, 1 / len(self.temperatures))
