"""Which samples are held out for selection and for the report, and which labels a budget keeps: stratified, a function of the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from transfuse.core.card import TaskName
from transfuse.core.seeds import derive
from transfuse.errors import DataError

MOST_BINS = 10  # quantile bins of a regression target


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive(seed, "data", purpose))


def strata(labels: Tensor, task: TaskName, fraction: float) -> np.ndarray:
    """int64 [n]: the group of each sample, from which every part takes its share.

    Classification: the class. Multilabel: the rarest class that the sample has. Regression: quantile bins of the first target, as many
    as leave at least one held-out sample in each.
    """
    if task == "classification":
        return labels.numpy()
    if task == "multilabel":
        present = labels.numpy() > 0.5
        frequency = np.where(present, present.sum(0), len(labels) + 1)  # a class that a sample doesn't have never is its rarest
        return np.where(present.any(1), frequency.argmin(1), labels.shape[1])
    bins = int(np.clip(len(labels) * fraction, 1, MOST_BINS))
    ranks = np.argsort(np.argsort(labels[:, 0].numpy(), kind="stable"), kind="stable")
    return ranks * bins // max(len(labels), 1)


def held_out(groups: np.ndarray, fraction: float, seed: int, purpose: str) -> np.ndarray:
    """bool [n]: which samples are held out; each group gives its share, shares are rounded by largest remainder.

    At least one sample is held out, and every group keeps at least one.

    Raises:
        DataError: every group has a single sample, so nothing can be held out.
    """
    random = _random(seed, purpose)
    names, members = np.unique(groups, return_inverse=True)
    counts = np.bincount(members, minlength=len(names))
    wanted = np.maximum(1, round(len(groups) * fraction))
    shares = counts * fraction
    takes = np.floor(shares).astype(int)
    by_remainder = np.lexsort((random.random(len(names)), -(shares - takes)))
    for group in by_remainder[: max(0, wanted - takes.sum())]:
        takes[group] += 1
    takes = np.minimum(takes, counts - 1)
    for group in np.argsort(-counts, kind="stable"):  # tiny data: the rounding may have given it all to groups that can't give
        if takes.sum() >= 1:
            break
        takes[group] = min(1, counts[group] - 1)
    if takes.sum() == 0:
        raise DataError(
            f"{len(groups)} labelled samples can't be split: no class has two",
            where="data.split",
            fix="give more samples, or validation and test parts of your own",
        )
    chosen = np.zeros(len(groups), dtype=bool)
    for group in range(len(names)):
        rows = np.flatnonzero(members == group)
        chosen[random.permutation(rows)[: takes[group]]] = True
    return chosen


def folds(groups: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    """int64 [n]: the fold, 0 to count - 1, in which each sample is held out; a group's samples are spread over folds as evenly as they go.

    Raises:
        DataError: fewer samples than folds, or a single fold.
    """
    if not 2 <= count <= len(groups):
        what = f"{len(groups)} samples can't be put into {count} fold{'s' if count != 1 else ''}"
        raise DataError(what, where="folds", fix=f"give a number from 2 to {len(groups)}" if len(groups) > 1 else "give more samples")
    random = _random(seed, purpose)
    found, dealt = np.empty(len(groups), dtype=np.int64), 0
    for group in np.unique(groups):
        rows = random.permutation(np.flatnonzero(groups == group))
        found[rows] = (dealt + np.arange(len(rows))) % count  # each group goes on dealing where the one before it ended
        dealt += len(rows)
    return random.permutation(count)[found]


def refuse_single(labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    """
    Raises:
        DataError: a class has one sample, which can't be learnt from while it is held out.
    """
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    single = [str(classes[number]) if number < len(classes) else str(number) for number in numbers[counts == 1].tolist()]
    if single:
        named = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
        what = f"{'these classes have' if len(single) > 1 else 'this class has'} a single training sample: {named}"
        fix = "give at least two of each class, leave those classes out, or do without folds"
        raise DataError(f"{what}; while it is held out nothing of its class is left to learn from", where=where, fix=fix)


def label_budget(labels: Tensor, per_class: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """bool [n]: which labels a budget of so many per class keeps, and the class numbers that have fewer than that."""
    random = _random(seed, "labels_per_class")
    values = labels.numpy()
    kept, short = np.zeros(len(values), dtype=bool), []
    for number in np.unique(values):
        rows = np.flatnonzero(values == number)
        if len(rows) < per_class:
            short.append(int(number))
        kept[random.permutation(rows)[:per_class]] = True
    return kept, short


def some(count: int, largest: int, seed: int, purpose: str) -> np.ndarray:
    """Sorted positions of at most `largest` out of `count`, chosen at random."""
    if count <= largest:
        return np.arange(count)
    return np.sort(_random(seed, purpose).choice(count, largest, replace=False))
