"""What each source is worth to a fusion, from the scores of the sets of sources that were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

Scores = Mapping[frozenset[str], float]
"""Set of sources -> its score; higher is better. The empty set's is that of a prediction without any source."""

MOST_SOURCES = 5  # 31 sets; each is trained


def coalitions(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All sets of sources but the empty one, in the order of their size, each in the order of `names`."""
    return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def without_each(names: Sequence[str]) -> list[tuple[str, ...]]:
    """What leave-one-out has to try: all sources, and all but each."""
    rest = [tuple(name for name in names if name != left_out) for left_out in names]
    return [tuple(names), *(chosen for chosen in rest if chosen)]


def leave_one_out(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    """v(all) - v(all but i) per source: what is lost without it.

    Raises:
        KeyError: a set's score is missing.
    """
    everyone = frozenset(names)
    return {name: scores[everyone] - scores[everyone - {name}] for name in names}


def shapley(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    """sum over sets S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)) per source (Shapley, 1953, Contributions to the Theory of
    Games II).

    The values add up to v(all) - v(none); two sources that say the same share what they are worth, where leave-one-out gives both 0.

    Raises:
        KeyError: a set's score is missing.
    """
    count = len(names)
    found = {}
    for name in names:
        others = [other for other in names if other != name]
        total = 0.0
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            total += weight * sum(scores[frozenset(chosen) | {name}] - scores[frozenset(chosen)] for chosen in combinations(others, size))
        found[name] = total
    return found
