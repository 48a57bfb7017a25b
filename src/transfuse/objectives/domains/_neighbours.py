"""Which pairs of samples the linear-time estimate of a discrepancy looks at, and how they count."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def neighbours(
    domains: Int[Tensor, "batch"], like: Float[Tensor, "..."]
) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """Positions in the batch of both samples of each pair, and its weight: sum weight k(first, second) is the estimate.

    Source samples s_i and target samples t_i stand in the batch's order, i up to n, the smaller number of both; the last is followed by the
    first. The pairs (s_i, s_i+1) and (t_i, t_i+1) weigh 1 / n, (s_i, t_i+1) and (s_i+1, t_i) weigh -1 / n. n is known on the device alone,
    so there are places for half of the batch, of which those that are too many weigh 0. Below two samples of a domain all do.
    """
    domains = domains.long()
    order = torch.argsort(domains, stable=True)  # sources first
    sources = (domains == 0).sum()
    count = torch.minimum(sources, len(domains) - sources)
    places = torch.arange(len(domains) // 2, device=domains.device)
    following = (places + 1) % count.clamp(min=1)
    positions = torch.stack([places, following, sources + places, sources + following]).clamp(max=len(domains) - 1)
    source, next_source, target, next_target = order[positions]
    share = ((places < count) & (count >= 2)).to(like.dtype) / count.clamp(min=1)
    first, second = torch.cat([source, target, source, next_source]), torch.cat([next_source, next_target, next_target, target])
    return first, second, torch.cat([share, share, -share, -share])
