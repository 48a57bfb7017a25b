"""Bridges: trainable adapters from a student's feature to a teacher's, made from the shapes by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.numerics import at_least_fp32
from transfuse.core.taps import MOST_PREFIX_TOKENS
from transfuse.errors import ModelError

Shape = tuple[int, ...]
Maps = Float[Tensor, "_ _ _ _"]  # batch, channels, height, width
_KINDS = {2: "vectors", 3: "tokens", 4: "maps"}


def kind_of(shape: Sequence[int]) -> str:
    """vectors [batch, channels], tokens [batch, positions, channels] or maps [batch, channels, height, width].

    Raises:
        ModelError: another number of dimensions.
    """
    if len(shape) not in _KINDS:
        fix = "tap a module that gives [batch, channels], [batch, tokens, channels] or [batch, channels, height, width]"
        raise ModelError(f"a feature of shape {list(shape)} is neither vectors nor tokens nor maps", fix=fix)
    return _KINDS[len(shape)]


def channels_of(shape: Sequence[int]) -> int:
    return shape[1] if kind_of(shape) == "maps" else shape[-1]


def token_grid(tokens: int, positions: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of the patches behind so many tokens; up to five tokens in front (class, registers) are none.

    Args:
        tokens: how many there are.
        positions: height and width of the map that they are compared with; taken where the number fits, else the patches are a square.

    Raises:
        ModelError: they can't be laid out.
    """
    for extra in range(MOST_PREFIX_TOKENS + 1):
        if positions is not None and tokens - extra == positions[0] * positions[1]:
            return positions
    for extra in range(min(MOST_PREFIX_TOKENS, tokens - 1) + 1):
        side = math.isqrt(tokens - extra)
        if side * side == tokens - extra:
            return side, side
    raise ModelError(f"{tokens} tokens can't be laid out as a square map", fix="tap a feature with as many tokens in both networks")


def tokens_to_maps(feature: Float[Tensor, "batch tokens channels"], grid: tuple[int, int]) -> Maps:
    """Patch tokens at their places; class and register tokens in front of them are left out."""
    height, width = grid
    patches = feature[:, feature.shape[1] - height * width :]
    return patches.transpose(1, 2).unflatten(2, (height, width))


def in_common_form(student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as vectors, tokens or maps, in at least fp32, the teacher's detached.

    Beside vectors, maps and tokens become their mean over positions. Two features of as many tokens stay tokens. All else becomes maps.
    """
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    kinds = kind_of(student.shape), kind_of(teacher.shape)
    if "vectors" in kinds:
        return _mean_over_positions(student), _mean_over_positions(teacher)
    if kinds == ("tokens", "tokens") and student.shape[1] == teacher.shape[1]:
        return student, teacher
    return as_maps(student, teacher), as_maps(teacher, student)


def as_maps(feature: Tensor, beside: Tensor) -> Maps:
    """A feature as maps: tokens are laid out, if possible like the map beside them.

    Raises:
        ModelError: it is vectors, or tokens that can't be laid out.
    """
    if kind_of(feature.shape) == "maps":
        return feature
    if kind_of(feature.shape) == "vectors":
        raise ModelError(f"a feature of shape {list(feature.shape)} has no positions", fix="tap a layer before the pooling")
    positions = (beside.shape[2], beside.shape[3]) if beside.ndim == 4 else None
    return tokens_to_maps(feature, token_grid(feature.shape[1], positions))


def _mean_over_positions(feature: Tensor) -> Float[Tensor, "batch channels"]:
    kind = kind_of(feature.shape)
    return feature if kind == "vectors" else feature.mean((2, 3)) if kind == "maps" else feature.mean(1)


def resized(maps: Maps, size: tuple[int, int]) -> Maps:
    """Maps of another size: the mean over areas on the way down, bilinear interpolation on the way up."""
    smaller = (min(maps.shape[2], size[0]), min(maps.shape[3], size[1]))
    if smaller != tuple(maps.shape[2:]):
        maps = averaged(maps, smaller)
    return maps if smaller == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def averaged(maps: Maps, size: tuple[int, int]) -> Maps:
    """Maps averaged to fewer positions, each over its share of the area.

    Where the shares are equal they are windows side by side, whose gradient a GPU adds up in the same order each time; for others torch has
    nothing like that.
    """
    height, width = maps.shape[2:]
    if height % size[0] or width % size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.avg_pool2d(maps, (height // size[0], width // size[1]))


def same_size(student_features: Tensor, teacher_features: Tensor) -> tuple[Maps, Maps]:
    """Both features as maps of one size, the smaller one of each side; in at least fp32, the teacher's detached."""
    student, teacher = at_least_fp32(student_features), at_least_fp32(teacher_features.detach())
    student, teacher = as_maps(student, teacher), as_maps(teacher, student)
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return resized(student, size), resized(teacher, size)


class Bridge(nn.Module):
    """Turns a student's feature and a teacher's into two of one shape: the teacher's, in the form in which both can be compared.

    Maps go through a 1x1 convolution, tokens and vectors through a linear layer; positions are pooled or interpolated to the teacher's.
    Between a CNN and a transformer tokens are laid out as maps.

    Args:
        student_shape: of the student's feature, batch first.
        teacher_shape: of the teacher's.
        norm: whether a BatchNorm (tokens: LayerNorm) follows.
        always: whether there is a layer even where the numbers of channels agree.

    Raises:
        ModelError: features of these shapes can't be compared.
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, norm: bool = False, always: bool = True):
        super().__init__()
        student, teacher = in_common_form(torch.empty(student_shape, device="meta"), torch.empty(teacher_shape, device="meta"))
        inputs, outputs, form = channels_of(student.shape), channels_of(teacher.shape), kind_of(student.shape)
        self.project: nn.Module = nn.Identity()
        if always or inputs != outputs:
            layer = nn.Conv2d(inputs, outputs, 1, bias=not norm) if form == "maps" else nn.Linear(inputs, outputs, bias=not norm)
            norms = {"maps": nn.BatchNorm2d, "vectors": nn.BatchNorm1d, "tokens": nn.LayerNorm}
            self.project = nn.Sequential(layer, norms[form](outputs)) if norm else layer

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
        student, teacher = in_common_form(student_features, teacher_features)
        if student.ndim < 4:
            return self.project(student), teacher
        size = (teacher.shape[2], teacher.shape[3])
        if student.shape[2] * student.shape[3] > size[0] * size[1]:  # the projection is done at the fewer positions
            return self.project(resized(student, size)), teacher
        return resized(self.project(student), size), teacher


def make_bridges(
    student_shapes: Mapping[str, Shape], teacher_shapes: Mapping[str, Shape], norm: bool = False, always: bool = True
) -> nn.ModuleList:
    """One bridge per pair of taps, in the recipe's order.

    Raises:
        ModelError: no taps, other numbers of taps, or shapes that can't be compared.
    """
    require_pairs(student_shapes, teacher_shapes)
    pairs = zip(student_shapes.values(), teacher_shapes.values(), strict=True)
    return nn.ModuleList([Bridge(student, teacher, norm, always) for student, teacher in pairs])


def require_pairs(student_taps: Mapping[str, object], teacher_taps: Mapping[str, object]) -> None:
    """
    Raises:
        ModelError: there is nothing tapped, or not as much in the student as in the teacher.
    """
    if not student_taps or not teacher_taps:
        missing = " and ".join(name for name, taps in (("student", student_taps), ("teacher", teacher_taps)) if not taps)
        raise ModelError(f"no feature of the {missing} is tapped", fix="set student_tap and teacher_tap: a module path, or auto")
    if len(student_taps) != len(teacher_taps):
        what = f"{len(student_taps)} features of the student ({', '.join(student_taps)})"
        raise ModelError(f"{what} and {len(teacher_taps)} of the teacher ({', '.join(teacher_taps)}) can't be paired")


class AttentionFusion(nn.Module):
    """Fuses a stage's feature with the fused feature of the stage after it (ABF, Chen et al., 2021).

    x = BN(conv1x1(feature)), y = the deeper one at x's size; [z1, z2] = sigmoid(conv1x1([x, y])); fused = z1 x + z2 y;
    the output is BN(conv3x3(fused)) at the teacher's size. The deepest stage has nothing to be fused with.

    Args:
        inputs: channels of the student's feature.
        middle: channels of the fused feature.
        outputs: channels of the teacher's feature.
        fuse: whether there is a deeper stage.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, fuse: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuse else None
        for layer in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]

    def forward(self, feature: Maps, deeper: Maps | None, size: tuple[int, int]) -> tuple[Maps, Maps]:
        """The feature for the teacher's (at `size`), and the fused one for the stage before."""
        fused = self.reduce(feature)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=fused.shape[2:], mode="nearest")
            shares = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1)))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        if tuple(fused.shape[2:]) != tuple(size):
            fused = F.interpolate(fused, size=size, mode="nearest")
        return self.expand(fused), fused
