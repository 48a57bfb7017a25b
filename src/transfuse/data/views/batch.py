"""What a recipe's augmentation does to a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from transfuse.core.types import EXACT_VIEW
from transfuse.data.views.colour import Colour
from transfuse.data.views.draws import Draws
from transfuse.data.views.erasing import Erasing
from transfuse.data.views.mixing import Mixed, Mixing
from transfuse.data.views.placement import crop_and_flip
from transfuse.data.views.randaugment import RandAugment
from transfuse.errors import DataError

VERSION = 1  # raised when a change here gives other bytes for the same (seed, sample, view): teachers' cached answers are then stale
EIGHT_BIT = (Colour, RandAugment, Erasing)  # defined on 8-bit grey or RGB pictures only


class Operation(Protocol):
    """A frozen dataclass whose fields say all that its results depend on, beside pictures and draws."""

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor: ...


class BatchViews:
    """Satisfies core.protocols.Views; applied to whole batches on their device.

    Args:
        views: fixed views per sample, epoch e using view e mod views; None: fresh ones for ever.
        seed: augment.seed.
        crop: pixels of reflected padding for random crops; 0 for none.
        flip: mirror left-right half of the time.
        operations: what comes after cropping and mirroring, in this order.
        mix: mixup and cutmix, which come last and need the pool.
        second: the views that take the place of a sample's second one, where those have changes of their own.
    """

    def __init__(
        self,
        views: int | None,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        operations: Sequence[Operation] = (),
        mix: Mixing | None = None,
        second: BatchViews | None = None,
    ):
        self.views, self.seed, self.crop, self.flip = views, seed, crop, flip
        self.operations, self.mix, self.second = tuple(operations), mix, second

    def view_of_epoch(self, epoch: Tensor) -> Tensor:
        """int64, of epoch's shape."""
        return epoch.long() if self.views is None else epoch.long() % self.views

    def apply(self, raw: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """Raw [batch, channels, height, width] of any type -> the same; EXACT_VIEW's samples and what is no picture stay as they are.

        Raises:
            DataError: the padding is not smaller than the pictures, or an operation does not fit them.
        """
        if raw.ndim != 4 or not (self.crop or self.flip or self.operations):
            return raw
        self._refuse(raw)
        ids, views = ids.to(raw.device), views.to(raw.device)
        draws = Draws(self.seed, ids, views)
        changed = crop_and_flip(raw, draws, self.crop, self.flip) if self.crop or self.flip else raw
        for operation in self.operations:
            changed = operation(changed, draws)
        exact = views == EXACT_VIEW
        if raw.device.type == "cpu" and not exact.any():  # elsewhere looking would wait for the device
            return changed
        return torch.where(exact[:, None, None, None], raw, changed)

    def mixture(self, ids: Tensor, views: Tensor, pool_size: int) -> Mixed | None:
        """Who is mixed with whom; None where nothing is mixed."""
        return self.mix.of(Draws(self.seed, ids, views), pool_size) if self.mix is not None else None

    def _refuse(self, raw: Tensor) -> None:
        if self.crop >= min(raw.shape[2:]):
            size = f"{raw.shape[2]}x{raw.shape[3]}"
            raise DataError(f"{self.crop} pixels can't be reflected in pictures of {size}", where="augment.crop", fix="make crop smaller")
        eight_bit = [operation for operation in self.operations if isinstance(operation, EIGHT_BIT)]
        if eight_bit and (raw.dtype != torch.uint8 or raw.shape[1] not in (1, 3)):
            kind = f"{raw.shape[1]} channels of {str(raw.dtype).removeprefix('torch.')}"
            raise DataError(
                f"is defined for 8-bit grey or RGB pictures, and these have {kind}",
                where=f"augment.{type(eight_bit[0]).__name__.lower()}",
                fix="leave it out, or give 8-bit pictures",
            )

    def spec(self) -> dict[str, Any]:
        """What the bytes of view v depend on, for keys of caches; not how many views there are, so that a cache can grow."""
        if not (self.crop or self.flip or self.operations or self.mix):
            return {"version": VERSION}
        found: dict[str, Any] = {"version": VERSION, "seed": self.seed, "crop": self.crop, "flip": self.flip}
        if self.operations:
            found["operations"] = [{type(operation).__name__: asdict(operation)} for operation in self.operations]  # pyright: ignore[reportArgumentType]
        if self.mix:
            found["mix"] = asdict(self.mix)
        return found
