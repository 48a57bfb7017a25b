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

    @property
    def per_epoch(self) -> float:
        """Steps of one pass, seldom a whole number."""
        return self.pool_size / self.batch_size

    def domains(self, ids: Tensor) -> Tensor | None:
        """int64 [batch]: the domain of samples at these positions, 0 source and 1 target; None where there are no domains."""
        return None

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


class PairedOrder(Order):
    """Two domains in every batch, each in an endless shuffled order of its own: the smaller one comes round more often.

    The pool holds the source's samples first, then the target's. Within a batch, and within each rank's share of it, the domains are
    spread evenly, so that micro-batches hold both. An epoch is over when both domains were passed through.

    Args:
        source_size, target_size: samples of each domain.
        batch_size: samples per step over all ranks and both domains.
        seed: of the shuffles.
        target_share: the target's share of a batch. A domain with fewer samples than its share gives each of them once per batch.
        rank, world_size: each rank gets its slice of either domain.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        batch_size: int,
        seed: int,
        target_share: float = 0.5,
        rank: int = 0,
        world_size: int = 1,
    ):
        counts = counts_of(source_size, target_size, batch_size, target_share)
        super().__init__(source_size + target_size, sum(counts), seed, rank, world_size)
        self.source = Order(source_size, counts[0], seeds.derive(seed, "source"), rank, world_size)
        self.target = Order(target_size, counts[1], seeds.derive(seed, "target"), rank, world_size)

    @property
    def slower(self) -> Order:
        """The domain that takes more steps for one pass."""
        return max(self.source, self.target, key=lambda order: order.per_epoch)

    @property
    def per_epoch(self) -> float:
        return self.slower.per_epoch

    def steps(self, epochs: float) -> int:
        return self.slower.steps(epochs)

    def epoch(self, step: int) -> float:
        return self.slower.epoch(step)

    def domains(self, ids: Tensor) -> Tensor | None:
        return (ids >= self.source.pool_size).to(torch.int64)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """As `Order.batch`; a sample's epoch is that of its own domain."""
        (source, source_epochs), (target, target_epochs) = self.source.batch(step), self.target.batch(step)
        places = torch.cat([(torch.arange(len(part)) + 0.5) / max(len(part), 1) for part in (source, target)])
        spread = places.argsort(stable=True)
        return torch.cat([source, target + self.source.pool_size])[spread], torch.cat([source_epochs, target_epochs])[spread]


class SourceOrder(PairedOrder):
    """The source's part of the same batches, with the same epochs and steps: what a control without the target sees."""

    def domains(self, ids: Tensor) -> Tensor | None:
        return None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.source.batch(step)


class TargetOrder(PairedOrder):
    """The target's part of the same batches, with the same epochs and steps, of a pool that holds the target alone."""

    def domains(self, ids: Tensor) -> Tensor | None:
        return None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.target.batch(step)


def counts_of(source_size: int, target_size: int, batch_size: int, target_share: float) -> tuple[int, int]:
    """Samples of the source and of the target in each batch: at least one, at most all."""
    target = min(max(round(batch_size * target_share), 1), max(batch_size - 1, 1))
    return min(max(batch_size - target, 1), source_size), min(target, target_size)
