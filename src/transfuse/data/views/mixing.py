"""Mixup and cutmix as functions of the view: which partner, how much of it, and where, are computed like any other draw.

The view v of sample i is mixed with the view v of a partner j, a hash of (augment.seed, i, v) over the whole pool; so a mixed picture is
the same in every batch, and a teacher's answer to it can be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor

from transfuse.core.types import EXACT_VIEW
from transfuse.data.views.draws import Draws

LEVELS = 4096  # shares that are told apart
STEPS = 2**14  # of a share, so that float32 holds its product with a difference of 8-bit values exactly


@dataclass(frozen=True)
class Mixing:
    """What a recipe's `mixup` and `cutmix` mean; where both are given each view draws one of them, as likely as the other.

    Mixup: Zhang, Cisse, Dauphin, Lopez-Paz, 2018, ICLR, https://arxiv.org/abs/1710.09412. Cutmix: Yun, Han, Oh, Chun, Choe, Yoo, 2019,
    ICCV, https://arxiv.org/abs/1905.04899. The own share is Beta(alpha, alpha): one of 4096 equally likely quantiles. The authors' code
    draws one share per batch and takes partners from the batch; here every view has its own and partners come from the pool.

    Args:
        mixup: alpha, or None for no mixup.
        mixup_probability: share of the views that drew mixup which are mixed.
        cutmix: alpha, or None for no cutmix.
        cutmix_probability: the same for cutmix.
    """

    mixup: float | None = None
    mixup_probability: float = 1.0
    cutmix: float | None = None
    cutmix_probability: float = 1.0

    def of(self, draws: Draws, pool_size: int) -> Mixed:
        """What happens to each view of a batch."""
        cuts = draws.integers("mix.kind", 2).bool() if self.mixup and self.cutmix else torch.full_like(draws.ids, bool(self.cutmix)).bool()
        by_mixup, by_cutmix = (draws.happens("mix.happens", share) for share in (self.mixup_probability, self.cutmix_probability))
        mixes = torch.where(cuts, by_cutmix, by_mixup) & (draws.views != EXACT_VIEW)
        level = draws.integers("mix.share", LEVELS)
        share = torch.zeros(len(level), device=level.device)
        for alpha, theirs in ((self.mixup, ~cuts), (self.cutmix, cuts)):
            if alpha is not None:
                share = torch.where(theirs, _quantiles_on(level.device, alpha)[level], share)
        partners = draws.integers("mix.partner", pool_size)
        return Mixed(partners, torch.where(mixes, share, 1.0), cuts & mixes, draws, bool(self.mixup), bool(self.cutmix))


def quantiles(alpha: float) -> Tensor:
    """float32 [4096]: Beta(alpha, alpha) at the middles of 4096 equal parts of its probability, in multiples of 2^-14."""
    middles = (np.arange(LEVELS) + 0.5) / LEVELS
    return torch.from_numpy(np.round(special.betaincinv(alpha, alpha, middles) * STEPS) / STEPS).float()


@lru_cache(maxsize=16)
def _quantiles_on(device: torch.device, alpha: float) -> Tensor:
    with torch.inference_mode(False):  # what is made inside could not be used outside
        return quantiles(alpha).to(device)


@dataclass(frozen=True)
class Mixed:
    """The mixture of each view of a batch; satisfies core.protocols.Mixture.

    Attributes:
        partners: int64 [batch], positions in the pool.
        drawn: float32 [batch], the own share as drawn; 1 where nothing is mixed.
        cuts: bool [batch], where a rectangle of the partner is put in rather than all of it faded in.
        draws: of the batch, for the rectangles' places.
        fading, cutting: whether there are mixtures of the one and of the other kind at all.
    """

    partners: Tensor
    drawn: Tensor
    cuts: Tensor
    draws: Draws
    fading: bool
    cutting: bool

    def blend(self, own: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed inputs, and float32 [batch]: the share of the sample itself in each, of the area where a rectangle was put in.

        Args:
            own: the views of the batch, pictures or columns.
            partners: the same views of the partners.
        """
        faded = self._faded(own, partners) if self.fading or own.ndim != 4 else own
        if own.ndim != 4 or not self.cutting:
            return faded, self.drawn
        inside = self._rectangles(*own.shape[2:])
        area = inside.flatten(1).sum(1).float() / (own.shape[2] * own.shape[3])
        mixed = torch.where(inside & self.cuts[:, None, None, None], partners, torch.where(self.cuts[:, None, None, None], own, faded))
        return mixed, torch.where(self.cuts, 1 - area, self.drawn)

    def _faded(self, own: Tensor, partners: Tensor) -> Tensor:
        share = self.drawn.view(-1, *[1] * (own.ndim - 1))
        theirs, ours = partners.to(torch.float32), own.to(torch.float32)
        faded = (ours - theirs).mul_(share).add_(theirs)
        if own.dtype == torch.uint8:
            return faded.round_().to(torch.uint8)
        return torch.where(share == 1, own, faded.to(own.dtype))  # to the bit, also where the sum of floats would round

    def _rectangles(self, height: int, width: int) -> Tensor:
        """bool [batch, 1, height, width]: of the picture's shape and 1 - share of its area, about a uniform pixel; cut off at the edges."""
        half = 0.5 * (1 - self.drawn.double()).sqrt()
        spans = []
        for length, name in ((height, "mix.row"), (width, "mix.column")):
            reach = (half * length).long()[:, None]
            middle = self.draws.integers(name, length)[:, None]
            places = torch.arange(length, device=middle.device)
            spans.append((places >= middle - reach) & (places < middle + reach))
        return spans[0][:, None, :, None] & spans[1][:, None, None, :]
