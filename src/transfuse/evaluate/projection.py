"""Features in two dimensions, for a picture of how classes lie."""

from __future__ import annotations

from typing import Literal

import numpy as np


def projected(features: np.ndarray, how: Literal["pca", "tsne"], seed: int) -> np.ndarray:
    """float32 [n, 2].

    Columns are standardised first. `pca`: the two directions of largest variance. `tsne`: neighbours stay neighbours, distances between
    groups mean nothing (van der Maaten, Hinton, 2008, JMLR 9, https://www.jmlr.org/papers/v9/vandermaaten08a.html), of 30 principal
    components at most, begun with the first two.

    Args:
        features: float [n, width].
        how: which.
        seed: of the solver.
    """
    from sklearn.decomposition import PCA

    values = features.astype(np.float64)
    std = values.std(0)
    values = (values - values.mean(0)) / np.where(std > 0, std, 1.0)
    kept = min(2 if how == "pca" else 30, *values.shape)
    reduced = PCA(kept, random_state=seed % 2**32).fit_transform(values)
    if how == "tsne" and len(values) > 4:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(values) - 1) / 3)
        reduced = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(reduced)
    found = np.zeros((len(values), 2), np.float32)
    found[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    return found
