"""Regression targets some of which may be unknown: how every regression loss averages over the known ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.numerics import at_least_fp32


def mean_over_known(
    term: Callable[[Tensor], Tensor], student_logits: Float[Tensor, "batch targets"], labels: Float[Tensor, "batch targets"]
) -> Float[Tensor, "batch"]:
    """mean of term(prediction - label) over a sample's known targets; 0 where none is known (NaN).

    Raises:
        ValueError: predictions and labels differ in shape; torch would broadcast them in silence.
    """
    if student_logits.shape != labels.shape:
        raise ValueError(f"predictions {list(student_logits.shape)} and targets {list(labels.shape)} differ in shape")
    student_logits = at_least_fp32(student_logits)
    known = ~labels.isnan()
    # the unknown are replaced before the difference: a NaN that is masked afterwards still gives a NaN gradient
    values = term(student_logits - torch.where(known, labels.to(student_logits.dtype), student_logits.detach()))
    return torch.where(known, values, torch.zeros_like(values)).sum(-1) / known.sum(-1).clamp(min=1)
