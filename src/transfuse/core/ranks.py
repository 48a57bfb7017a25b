"""Rank, world size, and reductions that are no-ops in a single process."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def active() -> bool:
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: for what all of them compute alike, and where one that fails must not keep others waiting."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


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


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = values.new_zeros(max(counts), *values.shape[1:])  # gloo and nccl exchange equal shapes only
        padded[: len(values)] = values
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)  # every rank's loss has seen these rows
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


def gather_rows(values: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; ranks may hold different numbers of them.

    Differentiable: own rows receive the gradient of every rank's loss, so that gradients averaged over ranks are those of the whole batch.
    With it an objective that relates the samples of a batch relates those of all ranks.
    """
    if world_size() == 1:
        return values
    counts = torch.zeros(world_size(), dtype=torch.int64, device=values.device)
    counts[rank()] = len(values)
    dist.all_reduce(counts)
    return _GatherRows.apply(values, counts.tolist())  # type: ignore[no-any-return]


def agreed(text: str) -> str:
    """The first rank's text, on all ranks."""
    if not active():
        return text
    shared = [text]
    dist.broadcast_object_list(shared)
    return shared[0]


def barrier() -> None:
    if active():
        dist.barrier()
