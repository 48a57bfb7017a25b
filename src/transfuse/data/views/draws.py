"""Random numbers of (augment.seed, sample, view), computed instead of drawn: the same in every batch, order, process and on every device.

A counter-based integer hash (the finaliser of splitmix64, Steele, Lea, Flood, 2014, OOPSLA, https://doi.org/10.1145/2660193.2660195) of
a key, the sample's number and the view's. The key comes from the seed and the name of the draw, so a further operation takes draws of its
own and leaves every existing view as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transfuse.core.devices import constant
from transfuse.core.seeds import derive

FINE = 2.0**-24  # uniform numbers are multiples of it, which float32 holds exactly


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mix(values: Tensor) -> Tensor:
    """splitmix64's finaliser, a bijection of 64 bits; int64 products wrap around alike on CPU and GPU."""
    values = (values ^ _shift(values, 30)) * _FIRST
    values = (values ^ _shift(values, 27)) * _SECOND
    return values ^ _shift(values, 31)


class Draws:
    """Random numbers of each sample of a batch, by the name of what they decide.

    Args:
        seed: augment.seed.
        ids: int64 [batch], positions in the pool.
        views: int64 [batch].
    """

    def __init__(self, seed: int, ids: Tensor, views: Tensor):
        self.seed, self.ids, self.views = seed, ids.long(), views.long()

    def bits(self, name: str) -> Tensor:
        """int64 [batch]: 64 hashed bits; for a given name and view no two samples have the same."""
        return self._hashed(derive(self.seed, "views", name))

    def _hashed(self, key: int | Tensor) -> Tensor:
        return _mix(_mix(self.ids * _GOLDEN + key) ^ (self.views * _GOLDEN + 1))

    def integers(self, name: str, count: int | Tensor) -> Tensor:
        """int64 [batch], uniform over 0 .. count - 1 to within count / 2^32: the upper 32 bits times count, upper half."""
        return (_shift(self.bits(name), 32) * count) >> 32

    def uniform(self, name: str) -> Tensor:
        """float32 [batch], uniform over multiples of 2^-24 in [0, 1)."""
        return _shift(self.bits(name), 40).float() * FINE

    def between(self, name: str, low: float, high: float) -> Tensor:
        """float64 [batch], uniform between two numbers."""
        return low + (high - low) * self.uniform(name).double()

    def tries(self, name: str, count: int, low: float, high: float) -> Tensor:
        """float64 [count, batch]: what `between` gives for the names NAME.0, NAME.1 ..., all at once."""
        numbers = tuple((derive(self.seed, "views", f"{name}.{number}"),) for number in range(count))
        keys = constant(numbers, self.ids.device, torch.int64)
        return low + (high - low) * (_shift(self._hashed(keys), 40).float() * FINE).double()

    def happens(self, name: str, probability: float) -> Tensor:
        """bool [batch], true with this probability, exactly so at 0 and 1."""
        return self.uniform(name) < probability

    def select(self, rows: Tensor) -> Draws:
        """The draws of some of the samples."""
        return Draws(self.seed, self.ids[rows], self.views[rows])

    def bytes(self, name: str, count: int) -> Tensor:
        """uint8 [batch, count]: hashed noise, eight bytes of each 64 hashed bits."""
        words = torch.arange(-(-count // 8), device=self.ids.device)
        return _mix(self.bits(name)[:, None] + words * _GOLDEN).view(torch.uint8)[:, :count]
