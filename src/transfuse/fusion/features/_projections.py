"""What the rules share: every source's features brought into one space, and the function on top of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.errors import ModelError

Projection = Literal["linear", "mlp", "none"]
Activation = Literal["relu", "gelu", "none"]


def projections(dims: Sequence[int], width: int, kind: Projection) -> nn.ModuleList:
    """One map from [batch, dim_i] to [batch, width] per source.

    linear: a linear layer. mlp: linear, GELU, linear, with `width` hidden units. none: the features as they are. PyTorch's initialisation
    gives features of unit variance the same variance behind the layer whatever their number, so no source begins louder than another.

    Raises:
        ModelError: no source, or a source without features.
    """
    if not dims or min(dims) < 1:
        raise ModelError(f"features of {list(dims)} numbers per source can't be fused", fix="give at least one source with features")
    if kind == "none":
        return nn.ModuleList([nn.Identity() for _ in dims])
    if kind == "linear":
        return nn.ModuleList([nn.Linear(dim, width) for dim in dims])
    return nn.ModuleList([nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width)) for dim in dims])


def require_one_width(dims: Sequence[int], width: int, kind: Projection) -> int:
    """Width of the space in which features are added up.

    Raises:
        ModelError: they are added as they are, and their widths differ.
    """
    if kind != "none":
        return width
    if len(set(dims)) > 1:
        what = f"features of {', '.join(map(str, dims))} numbers can't be added up as they are"
        raise ModelError(what, fix="set projection: linear, or take concat")
    return dims[0]


def projected(maps: nn.ModuleList, features: Sequence[Float[Tensor, "batch _"]]) -> list[Float[Tensor, "batch _"]]:
    """Every source's features behind its map.

    Raises:
        ValueError: `build` was not called, or for another number of sources.
    """
    if len(maps) != len(features):
        raise ValueError(f"{len(maps)} maps for the features of {len(features)} sources; call build(dims) first")
    return [project(feature) for project, feature in zip(maps, features, strict=True)]


def stacked(maps: nn.ModuleList, features: Sequence[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch sources width"]:
    """The same as one tensor, for rules that add sources up."""
    return torch.stack(projected(maps, features), dim=1)


def activated(values: Tensor, activation: Activation) -> Tensor:
    """The function phi on top of a sum."""
    if activation == "none":
        return values
    return F.relu(values) if activation == "relu" else F.gelu(values)
