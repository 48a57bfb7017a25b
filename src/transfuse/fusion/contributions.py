"""What each source contributes to what they reach together: leaving one out, and Shapley's share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial

Value = Callable[[tuple[int, ...]], float]
"""Some of the sources, by number -> what they reach together, higher is better."""

MOST_SOURCES = 8  # 255 groups; from there on leaving one out has to do


def leave_one_out(value: Value, sources: int) -> list[float]:
    """value(all) - value(all but s), for each source s; negative where the others do better alone."""
    everyone = tuple(range(sources))
    together = value(everyone)
    return [together - value(tuple(other for other in everyone if other != source)) for source in everyone]


def shapley(value: Value, sources: int, nothing: float) -> list[float]:
    """phi_s = sum over groups G without s of |G|! (S - |G| - 1)! / S! * (value(G + s) - value(G)).

    The shares add up to value(all) - nothing; two sources that are worth the same to every group get the same.

    Shapley, 1953, "A Value for n-Person Games", Contributions to the Theory of Games II, https://doi.org/10.1515/9781400881970-018.

    Args:
        value: asked once about each group of sources.
        sources: how many; at most 8.
        nothing: the value of no source at all, such as the accuracy of guessing.

    Raises:
        ValueError: too many sources for all groups to be tried.
    """
    if sources > MOST_SOURCES:
        raise ValueError(f"{2**sources - 1} groups of {sources} sources are too many to try; use leave_one_out")
    reached = {(): nothing}
    for size in range(1, sources + 1):
        reached |= {group: value(group) for group in combinations(range(sources), size)}
    shares = []
    for source in range(sources):
        share = 0.0
        for group, before in reached.items():
            if source not in group:
                weight = factorial(len(group)) * factorial(sources - len(group) - 1) / factorial(sources)
                share += weight * (reached[tuple(sorted((*group, source)))] - before)
        shares.append(share)
    return shares
