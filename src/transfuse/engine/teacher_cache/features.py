"""Features of a frozen network, computed once per sample and view and then read from the store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from transfuse.engine.teacher_cache.cached import CachedTeacher

READ_TOGETHER = 1024  # rows


def feature_parts(network: CachedTeacher, path: str, view: int, rows: np.ndarray | None = None) -> Iterator[Tensor]:
    """A feature of one view, in parts of at most 1,024 samples; what isn't stored yet is computed, in batches of the fixed size.

    Args:
        network: frozen, and tapping the path: `with_features(network, [path])`.
        path: of the module.
        view: which view of the samples.
        rows: positions in the pool; None: all of them, in order.

    Yields:
        float32 [n, *feature], as it was stored.

    Raises:
        KeyError: the network doesn't tap this path.
    """
    rows = np.arange(network.rows) if rows is None else rows
    for part in np.array_split(rows, max(1, -(-len(rows) // READ_TOGETHER))):
        ids = torch.from_numpy(part)
        yield network.answers(ids, torch.full_like(ids, view)).features[path]


def features(network: CachedTeacher, path: str, view: int, rows: np.ndarray | None = None) -> Tensor:
    """A feature of one view as one tensor, float32 [n, *feature]; see `feature_parts` for what doesn't fit into memory."""
    return torch.cat(list(feature_parts(network, path, view, rows)))
