"""What a recipe's augmentation does to a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transfuse.core.types import EXACT_VIEW
from transfuse.data.views.draws import Draws
from transfuse.data.views.placement import crop_and_flip
from transfuse.errors import DataError

VERSION = 1  # raised when a change here gives other bytes for the same (seed, sample, view): teachers' cached answers are then stale


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
