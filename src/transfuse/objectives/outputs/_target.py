"""Predictions split into the labelled class and the others, which several decoupled objectives share."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from transfuse.core.numerics import log_softmax_at
from transfuse.objectives.outputs._divergence import require_classes, require_same_outputs, require_temperature


def require_split(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"], temperature: float
) -> None:
    """
    Raises:
        ValueError: temperature not positive, other numbers of outputs, or a single class, which has no others.
    """
    require_temperature(temperature)
    require_same_outputs(student_logits, teacher_logits)
    require_classes(student_logits, "a single class has no other classes to tell apart")


def target_mask(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"]) -> Bool[Tensor, "batch classes"]:
    """True at each sample's label; samples without one (label < 0) are marked at class 0, and their values must be thrown away."""
    return torch.arange(logits.shape[-1], device=logits.device) == labels.clamp(min=0)[:, None]


def log_target(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], temperature: float = 1.0) -> Float[Tensor, "batch"]:
    """log p_y of each sample's label y at this temperature; gathered, because indexing by a mask waits for the device."""
    return log_softmax_at(logits, temperature).gather(-1, labels.clamp(min=0)[:, None])[:, 0]


def log_target_and_rest(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], temperature: float
) -> Float[Tensor, "batch 2"]:
    """log p_y and log(1 - p_y) at this temperature, the latter summed over the other classes rather than subtracted from 1."""
    others = log_softmax_at(logits, temperature).masked_fill(target_mask(logits, labels), -math.inf)
    return torch.stack([log_target(logits, labels, temperature), others.logsumexp(-1)], dim=-1)


def log_others(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], temperature: float) -> Float[Tensor, "batch classes"]:
    """Log-probabilities among the other classes only, which sum to 1 without the label's; -inf at the label."""
    return log_softmax_at(logits.masked_fill(target_mask(logits, labels), -math.inf), temperature)


def where_labelled(values: Float[Tensor, "batch"], labels: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The values of labelled samples, 0 for the others."""
    return torch.where(labels >= 0, values, torch.zeros_like(values))
