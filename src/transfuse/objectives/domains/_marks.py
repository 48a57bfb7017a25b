"""Which samples are source and which target, as weights: no waiting for the device, and any numbers of either."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transfuse.core.ranks import gather_rows
from transfuse.core.types import Step


def all_domains(step: Step) -> Tensor:
    """The domain marks of the batch of all processes.

    Raises:
        ValueError: the batch has none.
    """
    if step.batch.domains is None:
        raise ValueError("the samples don't say their domain; this objective needs a job with a source and a target domain")
    return gather_rows(step.batch.domains)


def shares(
    domains: Int[Tensor, "batch"], like: Float[Tensor, "..."], least: int = 1
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Weights that average over the source (0) and over the target samples (1): 1 / n on the domain's samples, 0 elsewhere.

    Where either domain has fewer than `least` samples all weights are 0, so that such a batch adds nothing and has no gradient: its
    numbers are on the device, and asking for them in order to refuse would stop every step.

    Raises:
        ValueError: the batch is too small to hold `least` samples of both.
    """
    if len(domains) < 2 * least:
        raise ValueError(f"a batch of {len(domains)} can't hold {least} of the source and {least} of the target domain; use larger batches")
    masks = (domains == 0).to(like.dtype), (domains == 1).to(like.dtype)
    enough = ((masks[0].sum() >= least) & (masks[1].sum() >= least)).to(like.dtype)
    return enough * masks[0] / masks[0].sum().clamp(min=1), enough * masks[1] / masks[1].sum().clamp(min=1)


def target_mask(domains: Int[Tensor, "batch"], like: Float[Tensor, "..."]) -> Float[Tensor, "batch"]:
    """1 on target samples, 0 on source samples."""
    return (domains == 1).to(like.dtype)


def without_own(count: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """n / (n - 1), the factor of unbiased estimates; 1 where that is undefined."""
    return torch.where(count > 1, count / (count - 1).clamp(min=1), 1.0)
