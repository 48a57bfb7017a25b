"""The plain ensemble: the mean of the sources' probabilities."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.card import Card, TaskName
from transfuse.fusion.output_rule import OutputRule, Outputs, as_answer, log_probabilities

CARD = Card(
    title="Mean of probabilities (deep ensemble)",
    paper="Lakshminarayanan, Pritzel, Blundell, 2017, NeurIPS",
    link="https://arxiv.org/abs/1612.01474",
    tasks=("classification", "multilabel", "regression"),
    cost="nothing is fitted",
)


def mean_probabilities(outputs: Outputs, task: TaskName = "classification") -> Float[Tensor, "samples outputs"]:
    """log((1/S) sum_s p_s): the arithmetic mean, which keeps a class alive that one source finds probable.

    Of a multilabel task the mean probability of each class, as log-odds; of a regression the mean prediction.

    Args:
        outputs: logits or predictions [sources, samples, outputs].
        task: what they mean.
    """
    if task == "regression":
        return outputs.mean(0)
    return as_answer(torch.logsumexp(log_probabilities(outputs, task), 0) - math.log(outputs.shape[0]), task)


class MeanProbabilities(OutputRule):
    """The mean of the sources' probabilities (of their predictions for a regression).

    Args:
        task: what the outputs mean.
        calibrate: fit a temperature to each source first.
    """

    def __init__(self, task: TaskName = "classification", calibrate: bool = False):
        super().__init__(task, calibrate)

    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return mean_probabilities(outputs, self.task)

    def source_weights(self) -> Tensor:
        return torch.full_like(self.temperatures, 1 / len(self.temperatures))
