"""A network of one or more hidden layers, fitted in torch to the task's label loss."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, MinLen
from torch import nn

from transfuse.core.seeds import derive
from transfuse.probes._descent import descend
from transfuse.probes.problem import HeadCard, Problem

CARD = HeadCard(
    title="Multilayer perceptron",
    paper="Rumelhart, Hinton, Williams, 1986, Nature 323",
    link="https://doi.org/10.1038/323533a0",
    tasks=("classification", "multilabel", "regression"),
    ends="mlp",
)
DECAYS = [1.0, 0.1, 0.01]


class MLP:
    """Linear layers with ReLU between them, by AdamW with a cosine schedule.

    Args:
        hidden: widths of the hidden layers.
        weight_decay: of AdamW; a list is chosen among.
        lr: learning rate at the beginning.
        steps: of the optimiser, however few the samples are.
        batch_size: samples per step.
    """

    tuned: ClassVar[tuple[str, ...]] = ("weight_decay",)

    def __init__(
        self,
        hidden: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = [256],  # noqa: B006  read, never changed
        weight_decay: Annotated[float, Ge(0)] | list[Annotated[float, Ge(0)]] = DECAYS,
        lr: Annotated[float, Gt(0)] = 0.001,
        steps: Annotated[int, Ge(1)] = 1000,
        batch_size: Annotated[int, Ge(1)] = 128,
    ):
        self.hidden, self.weight_decay, self.lr, self.steps, self.batch_size = hidden, weight_decay, lr, steps, batch_size

    def fit(self, problem: Problem, setting: Mapping[str, Any]) -> nn.Module:
        widths = [problem.features.shape[1], *self.hidden, problem.outputs]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(problem.seed, "head", "initialisation"))
            for before, after in itertools.pairwise(widths):
                layers += [nn.Linear(before, after), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        descend(network, problem, self.lr, setting["weight_decay"], self.steps, self.batch_size)
        return network
