"""Which samples a step sees: a pure function of (seed, step), so that resuming is arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

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


class SeveralOrder(Order):
    """Several sets in every batch, each in an endless shuffled order of its own: a smaller one comes round more often.

    The pool holds the sets one behind the other. Within a batch, and within each rank's share of it, they are spread evenly, so that
    micro-batches hold all. An epoch is over when every set was passed through.

    Args:
        sizes: samples of each set, by a name that its shuffles are drawn from; in the pool's order.
        counts: samples of each in a batch, over all ranks.
        seed: of the shuffles.
        rank, world_size: each rank gets its slice of every set.
        only: the sets that are there; epochs and steps are those of all, and so are their own samples in each step, but batches and pool
            hold these alone. None: all.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        counts: Sequence[int],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        only: Collection[str] | None = None,
    ):
        super().__init__(sum(sizes.values()), sum(counts), seed, rank, world_size)
        self.sets = {
            name: Order(size, count, seeds.derive(seed, name), rank, world_size)
            for (name, size), count in zip(sizes.items(), counts, strict=True)
        }
        self._shown = [number for number, name in enumerate(sizes) if only is None or name in only]
        kept = [size for number, size in enumerate(sizes.values()) if number in self._shown]
        self._starts = torch.tensor([0, *kept]).cumsum(0)

    @property
    def slower(self) -> Order:
        """The set that takes more steps for one pass."""
        return max(self.sets.values(), key=lambda order: order.per_epoch)

    @property
    def per_epoch(self) -> float:
        return self.slower.per_epoch

    def steps(self, epochs: float) -> int:
        return self.slower.steps(epochs)

    def epoch(self, step: int) -> float:
        return self.slower.epoch(step)

    def domains(self, ids: Tensor) -> Tensor | None:
        """int64 [batch]: the number of each sample's set among all; None where only one is there."""
        if len(self._shown) == 1:
            return None
        places = torch.bucketize(ids, self._starts[1:-1].to(ids.device), right=True)
        return torch.tensor(self._shown, device=ids.device)[places]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """As `Order.batch`; a sample's epoch is that of its own set."""
        orders = list(self.sets.values())
        found = [orders[number].batch(step) for number in self._shown]
        if len(found) == 1:
            return found[0]
        places = torch.cat([(torch.arange(len(ids)) + 0.5) / max(len(ids), 1) for ids, _ in found])
        spread = places.argsort(stable=True)
        ids = torch.cat([part + start for (part, _), start in zip(found, self._starts, strict=False)])
        return ids[spread], torch.cat([epochs for _, epochs in found])[spread]


class PairedOrder(SeveralOrder):
    """Two domains in every batch: the source's samples first in the pool, then the target's.

    Args:
        source_size, target_size: samples of each domain.
        batch_size: samples per step over all ranks and both domains.
        seed: of the shuffles.
        target_share: the target's share of a batch. A domain with fewer samples than its share gives each of them once per batch.
        rank, world_size: each rank gets its slice of either domain.
    """

    only: ClassVar[tuple[str, ...] | None] = None

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
        counts = counts_of((source_size, target_size), batch_size, target_share)
        super().__init__({"source": source_size, "target": target_size}, counts, seed, rank, world_size, self.only)

    @property
    def source(self) -> Order:
        return self.sets["source"]

    @property
    def target(self) -> Order:
        return self.sets["target"]


class SourceOrder(PairedOrder):
    """The source's part of the same batches, with the same epochs and steps: what a control without the target sees."""

    only: ClassVar[tuple[str, ...] | None] = ("source",)


def counts_of(sizes: Sequence[int], batch_size: int, target_share: float, by_size: bool = False) -> list[int]:
    """Samples of each set in a batch, the target's last: at least one, at most all; what the target leaves is the others'.

    Args:
        sizes: samples of each set, the target's last.
        batch_size: of all together; as many as there are sets at least.
        target_share: the target's share.
        by_size: the others share the rest as their sizes have it; else evenly.
    """
    *others, own = sizes
    target = min(max(round(batch_size * target_share), 1), max(batch_size - len(others), 1))
    rest = max(batch_size - target, len(others))
    weights = others if by_size else [1] * len(others)
    bounds = [round(rest * sum(weights[:number]) / sum(weights)) for number in range(len(others) + 1)]
    shares = [end - start for start, end in pairwise(bounds)]
    while 0 in shares:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] += 1
    return [*map(min, shares, others), min(target, own)]
