"""Endings for steps that no network made: heads over the mean of a step's features."""

from dataclasses import replace

import torch
from torch import Tensor

from transfuse.core.heads import Ending
from transfuse.core.types import Step
from transfuse.testing import Sizes, example_step


def ending(features: dict[str, Tensor], weight: Tensor, path: str = "linear", plain: bool = True) -> Ending:
    """How a network with these features and this head ends."""
    feature = list(features.values())[-1]
    inputs = feature.mean((2, 3)) if feature.ndim == 4 else feature
    return Ending(path, weight, torch.linspace(-1, 1, len(weight)).to(weight), inputs, plain, dict(features))


def head(sizes: Sizes, seed: int) -> Tensor:
    """Weights of a last layer, float64 [classes, channels]."""
    generator = torch.Generator().manual_seed(100 * sizes.seed + seed)
    return torch.randn(sizes.classes, sizes.channels, generator=generator, dtype=torch.float64)


def step_with_heads(sizes: Sizes) -> Step:
    """One tap per model and the student's head among its parameters."""
    return replace(example_step(sizes, taps=1), parameters={"linear.weight": head(sizes, 1)})


def meet(objective, step: Step) -> None:
    """Shows an objective how both networks of a step end; the teacher's head is a function of its sizes alone."""
    own, other = (list(signals.features.values())[-1] for signals in (step.student, step.teacher))
    classes = step.teacher.logits.shape[-1]
    student_head = step.parameters.get("linear.weight", head(Sizes(classes=classes, channels=own.shape[1]), 1).to(own.dtype))
    teacher_head = head(Sizes(classes=classes, channels=other.shape[1]), 2).to(other.dtype)
    objective.meet(ending(step.student.features, student_head), ending(step.teacher.features, teacher_head))
