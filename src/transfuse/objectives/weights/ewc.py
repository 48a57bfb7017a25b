"""Elastic weight consolidation: weights stay where training found them, each as firmly as its Fisher information says it matters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transfuse.core.card import Card, TaskName
from transfuse.core.numerics import at_least_fp32
from transfuse.core.types import Step, Trial
from transfuse.errors import ModelError
from transfuse.objectives.weights._kept import forget, keep, kept

Labels = Literal["model", "data"]
STARTING, FISHER, TRAINING = "starting", "fisher", "training"
CARD = Card(
    title="Elastic weight consolidation (EWC)",
    paper="Kirkpatrick et al., 2017, PNAS",
    link="https://arxiv.org/abs/1612.00796",
    level="parameters",
    needs=("student.start",),
    paper_weight=400.0,
    tasks=("classification", "multilabel", "regression"),
    cost="two copies of the student's weights; before training, forward and backward of some hundred single samples",
)


def ewc_loss(
    student_parameters: Mapping[str, Tensor], starting_parameters: Mapping[str, Tensor], fisher: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """1/2 sum F (w - w0)^2 over the parameters that have a starting value; F is the diagonal of the Fisher information at w0.

    `paper_weight` is lambda in the paper's Atari experiments; for MNIST it gives none. It belongs to F of a mean over samples.

    Raises:
        ValueError: a starting value has no parameter or another shape, or there is none.
    """
    parts = []
    for name, start in starting_parameters.items():
        if name not in student_parameters or student_parameters[name].shape != start.shape:
            raise ValueError(f"parameter '{name}' is no longer the one that training started with; call watch after changing the student")
        moved = at_least_fp32(student_parameters[name]) - at_least_fp32(start)
        parts.append((at_least_fp32(fisher[name]) * moved.square()).sum())
    if not parts:
        raise ValueError("no parameter has a starting value, so there is nothing to keep near its start")
    return 0.5 * torch.stack(parts).sum()


def diagonal_fisher(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: TaskName = "classification", labels: Labels = "model", seed: int = 0
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information by parameter: mean over samples of (d log p(y | x) / d w)^2.

    Gradients are squared sample by sample; squaring the gradient of a batch's mean, as some implementations do, gives another, smaller
    number. model: y is drawn from the network's own prediction, which is the definition; data: y is the sample's label, the "empirical
    Fisher". Regression: p is a normal distribution of variance 1 around the output. Keep it for a source's data with
    `safetensors.torch.save_file(diagonal_fisher(network, batches), "fisher.safetensors")`.

    Args:
        network: in eval mode.
        batches: (inputs, labels) of the data whose knowledge is to be kept.
        task: what the outputs mean.
        labels: where y comes from.
        seed: of the draws.

    Raises:
        ValueError: there is no sample.
    """
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    sums, count = {name: torch.zeros_like(value) for name, value in parameters.items()}, 0
    generator = torch.Generator().manual_seed(seed)
    for inputs, given in batches:
        for row in range(len(inputs)):
            outputs = at_least_fp32(network(inputs[row : row + 1]))
            wanted = _drawn(outputs.detach(), task, generator) if labels == "model" else given[row : row + 1]
            gradients = torch.autograd.grad(_surprise(outputs, wanted, task), list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.square()
            count += 1
    if not count:
        raise ValueError("there is no labelled sample to estimate the Fisher information on")
    return {name: value / count for name, value in sums.items()}


def _drawn(outputs: Tensor, task: TaskName, generator: torch.Generator) -> Tensor:
    """Labels drawn from a prediction; on the CPU, so that every device draws the same."""
    shown = outputs.cpu()
    if task == "regression":
        drawn = shown + torch.randn(shown.shape, generator=generator, dtype=shown.dtype)
    elif task == "multilabel" or shown.shape[-1] == 1:
        drawn = (torch.rand(shown.shape, generator=generator, dtype=shown.dtype) < shown.sigmoid()).to(shown.dtype)
    else:
        drawn = torch.multinomial(shown.softmax(-1), 1, generator=generator)[:, 0]
    return drawn.to(outputs.device)


def _surprise(outputs: Tensor, labels: Tensor, task: TaskName) -> Float[Tensor, ""]:
    """-log p(labels | x), up to a constant."""
    if task == "regression":
        return 0.5 * (outputs - labels).square().sum()
    if task == "multilabel" or outputs.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(outputs, labels.reshape(outputs.shape).to(outputs.dtype), reduction="sum")
    return F.cross_entropy(outputs, labels, reduction="sum")


class EWC(nn.Module):
    """The way from the starting weights, weighted by their Fisher information.

    The paper estimates that on the source's data. A job seldom has them any more: by default it is estimated on the job's own training
    samples under the starting weights, which tells how much each weight matters for what the pretrained network says about these inputs.
    For the paper's form, hand over a file made with `diagonal_fisher`. Parameters that start anew are left free.

    Args:
        fisher: training, or a .safetensors file with a tensor for every parameter.
        samples: how many training samples it is estimated on.
        labels: drawn from the network's own prediction (the definition), or the data's (the empirical Fisher).
    """

    def __init__(self, fisher: str = TRAINING, samples: Annotated[int, Ge(1)] = 256, labels: Labels = "model"):
        super().__init__()
        self.fisher, self.samples = fisher, samples
        self.labels: Labels = labels
        self.names: tuple[str, ...] = ()
        self.known = False
        self.register_load_state_dict_post_hook(_is_known)

    def watch(self, parameters: Mapping[str, Tensor], new: Collection[str] = ()) -> None:
        """Takes the student's parameters as training finds them, and their Fisher information where a file has it.

        Raises:
            ModelError: the file can't be read, or has nothing for one of the parameters.
        """
        for prefix in (STARTING, FISHER):
            forget(self, prefix, self.names)
        self.names = tuple(name for name in parameters if name not in set(new))
        keep(self, STARTING, {name: parameters[name] for name in self.names})
        keep(self, FISHER, {name: torch.zeros_like(parameters[name]) for name in self.names})
        if self.fisher != TRAINING:
            self._take(_read(Path(self.fisher)), self.fisher)

    def probe(self, student: Trial, teacher: Trial | None) -> str:
        """Estimates the Fisher information before training, unless a file has it."""
        if self.fisher != TRAINING:
            return f"Fisher information from {self.fisher}"
        self._take(diagonal_fisher(student.network, student.batches(self.samples), student.task, self.labels), "the student")
        whose = "the network's own predictions" if self.labels == "model" else "their labels"
        return f"Fisher information of the starting weights, estimated on up to {self.samples} training samples and {whose}"

    def _take(self, found: Mapping[str, Tensor], where: str) -> None:
        start = kept(self, STARTING, self.names)
        wrong = [name for name, value in start.items() if name not in found or found[name].shape != value.shape]
        frozen = [name for name in wrong if name not in found]
        if wrong and (len(frozen) < len(wrong) or self.fisher != TRAINING):
            fix = "make it with diagonal_fisher for a network of the student's architecture"
            raise ModelError(f"no Fisher information of its shape for parameter '{wrong[0]}'", f"objectives.ewc.fisher: {where}", fix)
        keep(self, FISHER, {name: found[name].to(start[name]) for name in self.names if name in found})
        self.known = True

    def forward(self, step: Step) -> Tensor:
        if not self.known:
            raise ValueError("the Fisher information is not known; call watch(parameters) and probe(student, teacher) before training")
        return ewc_loss(step.parameters, kept(self, STARTING, self.names), kept(self, FISHER, self.names))


def _is_known(objective: Any, missing: Any) -> None:
    objective.known = True


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"can't read it: {error}", f"objectives.ewc.fisher: {path}", "give a .safetensors file, or training") from error
