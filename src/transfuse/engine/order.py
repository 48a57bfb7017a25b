"""Which samples a step sees: a pure function of (seed, step), so that resuming is arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from transfuse.core import seeds


class Order:
    """A stream of shuffled passes over the pool, cut into batches of one size.

    No sample is dropped: what an epoch leaves over goes into the next batch, so a batch may span two epochs. All steps have the
    same size; the last one is filled from the pass that would follow.

    Args:
        pool_size: number of samples.
        batch_size: samples per step over all ranks.
        seed: of the shuffles.
        rank, world_size: this process's share of each batch is the rank-th of `world_size` slices.
    """

    def __init__(self, pool_size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.pool_size, self.batch_size, self.seed = pool_size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._passes: dict[int, Tensor] = {}

    def steps(self, epochs: float) -> int:
        """Steps that cover so many epochs, at least one."""
        return max(1, -(-round(epochs * self.pool_size) // self.batch_size))

    def epoch(self, step: int) -> float:
        """Passes over the pool completed before a step."""
        return step * self.batch_size / self.pool_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """int64 positions in the pool and the epoch of each, for this rank's share of a step."""
        first = step * self.batch_size
        ids, epochs = [], []
        position, left = first, self.batch_size
        while left > 0:
            epoch, offset = divmod(position, self.pool_size)
            taken = self._pass(epoch)[offset : offset + left]
            ids.append(taken)
            epochs.append(torch.full((len(taken),), epoch, dtype=torch.int64))
            position, left = position + len(taken), left - len(taken)
        share = slice(self.rank * self.batch_size // self.world_size, (self.rank + 1) * self.batch_size // self.world_size)
        return torch.cat(ids)[share], torch.cat(epochs)[share]

    def _pass(self, epoch: int) -> Tensor:
        if epoch not in self._passes:
            shuffled = torch.randperm(self.pool_size, generator=seeds.generator(self.seed, "order", epoch))
            recent = {kept: value for kept, value in self._passes.items() if kept >= epoch - 2}
            self._passes = {**recent, epoch: shuffled}
        return self._passes[epoch]
