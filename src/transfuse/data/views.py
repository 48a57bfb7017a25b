"""Augmentation as a pure function of (augment.seed, sample, view): the same bytes in every batch, order, process and on every device.

The random parameters are not drawn but computed: a counter-based integer hash (the finaliser of splitmix64, Steele, Lea, Flood, 2014,
OOPSLA, https://doi.org/10.1145/2660193.2660195) of a key, the sample's number and the view's. The key comes from the seed and the name
of the draw, so a further operation takes draws of its own and leaves every existing view as it was. An operation is a function
(pictures, draws) -> pictures on the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transfuse.core.seeds import derive
from transfuse.core.types import EXACT_VIEW
from transfuse.errors import DataError

VERSION = 1  # raised when a change here gives other bytes for the same (seed, sample, view): teachers' cached answers are then stale


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
        key = derive(self.seed, "views", name)
        return _mix(_mix(self.ids * _GOLDEN + key) ^ (self.views * _GOLDEN + 1))

    def integers(self, name: str, count: int) -> Tensor:
        """int64 [batch], uniform over 0 .. count - 1 to within count / 2^32: the upper 32 bits times count, upper half."""
        return (_shift(self.bits(name), 32) * count) >> 32

    def uniform(self, name: str) -> Tensor:
        """float32 [batch], uniform over multiples of 2^-24 in [0, 1), which float32 holds exactly."""
        return _shift(self.bits(name), 40).float() * 2.0**-24


def reflected(positions: Tensor, length: int) -> Tensor:
    """Positions beyond an edge, mirrored back inside; the edge pixel itself is not repeated, as in numpy's mode "reflect"."""
    positions = positions.abs()
    return torch.where(positions > length - 1, 2 * (length - 1) - positions, positions)


def crop_and_flip(pictures: Tensor, draws: Draws, crop: int, flip: bool) -> Tensor:
    """Pads by `crop` reflected pixels, cuts the original size out at one of (2 crop + 1)^2 places, mirrors half of the samples.

    Where each output row and column comes from is computed, then both are gathered: nothing is padded, no sample is looped over.

    Args:
        pictures: [batch, channels, height, width].
        draws: of the same batch.
        crop: pixels of padding, less than height and width.
        flip: whether to mirror left-right.
    """
    batch, channels, height, width = pictures.shape
    rows = torch.arange(height, device=pictures.device).expand(batch, height)
    columns = torch.arange(width, device=pictures.device).expand(batch, width)
    if flip:
        columns = torch.where(draws.integers("flip", 2).bool()[:, None], width - 1 - columns, columns)
    if crop:
        rows = reflected(rows + (draws.integers("crop.row", 2 * crop + 1) - crop)[:, None], height)
        columns = reflected(columns + (draws.integers("crop.column", 2 * crop + 1) - crop)[:, None], width)
    which = torch.arange(batch * channels, device=pictures.device).view(batch, channels, 1) * height + rows[:, None, :]
    moved = pictures.reshape(-1, width).index_select(0, which.flatten()).view(batch, channels * height, width)
    return moved.gather(2, columns[:, None, :].expand(-1, channels * height, -1)).view(batch, channels, height, width)


class BatchViews:
    """Satisfies core.protocols.Views; applied to whole batches on their device.

    Args:
        views: fixed views per sample, epoch e using view e mod views; None: fresh ones for ever.
        seed: augment.seed.
        crop: pixels of reflected padding for random crops; 0 for none.
        flip: mirror left-right half of the time.
    """

    def __init__(self, views: int | None, seed: int, crop: int = 0, flip: bool = False):
        self.views, self.seed, self.crop, self.flip = views, seed, crop, flip

    def view_of_epoch(self, epoch: Tensor) -> Tensor:
        """int64, of epoch's shape."""
        return epoch.long() if self.views is None else epoch.long() % self.views

    def apply(self, raw: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """Raw [batch, channels, height, width] of any type -> the same; EXACT_VIEW's samples and what is no picture stay as they are.

        Raises:
            DataError: the padding is not smaller than the pictures.
        """
        if raw.ndim != 4 or not (self.crop or self.flip):
            return raw
        if self.crop >= min(raw.shape[2:]):
            size = f"{raw.shape[2]}x{raw.shape[3]}"
            raise DataError(f"{self.crop} pixels can't be reflected in pictures of {size}", where="augment.crop", fix="make crop smaller")
        ids, views = ids.to(raw.device), views.to(raw.device)
        changed = crop_and_flip(raw, Draws(self.seed, ids, views), self.crop, self.flip)
        return torch.where((views == EXACT_VIEW)[:, None, None, None], raw, changed)

    def spec(self) -> dict[str, Any]:
        """What the bytes of view v depend on, for keys of caches; not how many views there are, so that a cache can grow."""
        if not (self.crop or self.flip):
            return {"version": VERSION}
        return {"version": VERSION, "seed": self.seed, "crop": self.crop, "flip": self.flip}
