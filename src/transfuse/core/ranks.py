"""Rank, world size, and reductions that are no-ops in a single process."""

import torch
import torch.distributed as dist
from torch import Tensor


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def world_size() -> int:
    return dist.get_world_size() if active() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks; carries no gradient."""
    if not active():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def barrier() -> None:
    if active():
        dist.barrier()


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether any rank raises the flag (an interrupt, say), agreed by all."""
    if not active():
        return flag
    return bool(sum_over_ranks(torch.tensor([int(flag)], device=device)).item())
