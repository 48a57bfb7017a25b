"""Steps for relations: vectors, maps, features of unlike widths, and what a rotation does to them."""

from dataclasses import replace

import torch

from transfuse.core.types import Signals, Step
from transfuse.testing import Sizes, example_step


def narrow_student(sizes: Sizes) -> Step:
    """The student's feature has two channels less than the teacher's."""
    step = example_step(sizes, taps=1)
    return with_student(step, step.student.features["stage1"][:, :-2])


def with_student(step: Step, feature: torch.Tensor) -> Step:
    return replace(step, student=Signals(step.student.logits, {"stage1": feature}))


def scaled_student(step: Step) -> Step:
    """The student's features times one positive number."""
    return with_student(step, 3.7 * step.student.features["stage1"])


def rotated_student(step: Step) -> Step:
    """The student's channels turned by one orthogonal matrix."""
    feature = step.student.features["stage1"]
    generator = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(feature.shape[1], feature.shape[1], generator=generator, dtype=torch.float64)).Q.to(
        feature.dtype
    )
    return with_student(step, torch.einsum("oc,nc...->no...", rotation, feature))


def moved_student(step: Step) -> Step:
    """One vector added to all of the student's features."""
    feature = step.student.features["stage1"]
    return with_student(step, feature + torch.linspace(-2, 2, feature.shape[1], dtype=feature.dtype)[:, None, None])
