"""L2-SP: weight decay towards the pretrained weights instead of towards zero."""

from collections.abc import Collection, Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step
from transfuse.objectives.weights._kept import forget, keep, kept

STARTING = "starting"
CARD = Card(
    title="L2 to the starting point (L2-SP)",
    paper="Li, Grandvalet, Davoine, 2018, ICML",
    link="https://arxiv.org/abs/1802.01483",
    level="parameters",
    needs=("student.start",),
    paper_weight=0.01,
    tasks=("classification", "multilabel", "regression"),
    cost="a copy of the student's weights, in memory and in checkpoints",
    decays=True,
)


def l2_sp_loss(student_parameters: Mapping[str, Tensor], starting_parameters: Mapping[str, Tensor], head: float = 1.0) -> Float[Tensor, ""]:
    """1/2 sum |w - w0|^2 over the parameters that have a starting value, plus head/2 sum |w|^2 over the others.

    With `paper_weight` 0.01 this is the paper's alpha = beta = 0.01. It takes the place of weight decay, which would
    pull to 0 what this holds at the start: in recipes the optimiser's is 0 unless another than its usual one is given, and that is said.
    Which parameters started where is told by their names, never by comparing values.

    Raises:
        ValueError: a starting value has no parameter, or another shape.
    """
    kept: list[Tensor] = []
    for name, start in starting_parameters.items():
        if name not in student_parameters or student_parameters[name].shape != start.shape:
            raise ValueError(f"parameter '{name}' is no longer the one that training started with; call watch after changing the student")
        kept.append((at_least_fp32(student_parameters[name]) - at_least_fp32(start)).square().sum())
    new = [at_least_fp32(value).square().sum() for name, value in student_parameters.items() if name not in starting_parameters]
    parts = [0.5 * part for part in kept] + [0.5 * head * part for part in new]
    if not parts:
        raise ValueError("the student has no parameters, so there is nothing to keep near its start")
    return torch.stack(parts).sum()


class L2SP(nn.Module):
    """The squared way from the starting weights, and the squared length of what starts anew.

    `watch` copies the starting values into buffers, so a resumed run keeps the first start; the live parameters come with every step and
    are no part of this module.

    Args:
        head: weight of the parameters that start anew, relative to the others; 0 leaves them free.
    """

    def __init__(self, head: Annotated[float, Ge(0)] = 1.0):
        super().__init__()
        self.head = head
        self.names: tuple[str, ...] = ()
        self.new: tuple[str, ...] = ()

    def watch(self, parameters: Mapping[str, Tensor], new: Collection[str] = ()) -> None:
        """Takes the student's parameters as training finds them; `new` names those that have no pretrained value.

        Raises:
            ValueError: a name in `new` is not among the parameters.
        """
        unknown = sorted(set(new) - set(parameters))
        if unknown:
            raise ValueError(f"{unknown} are said to be new, and the student has no such parameters")
        forget(self, STARTING, self.names)
        self.names = tuple(name for name in parameters if name not in set(new))
        self.new = tuple(name for name in parameters if name in set(new))
        keep(self, STARTING, {name: parameters[name] for name in self.names})

    def forward(self, step: Step) -> Tensor:
        if not self.names and not self.new:
            raise ValueError("the starting weights are not known; call watch(parameters, new) before training")
        unknown = sorted(set(step.parameters) - {*self.names, *self.new})
        if unknown:
            raise ValueError(f"parameters {unknown} were not there when training started; call watch after changing the student")
        return l2_sp_loss(step.parameters, kept(self, STARTING, self.names), self.head)
