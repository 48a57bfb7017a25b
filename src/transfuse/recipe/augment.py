"""The recipe's `augment` block: random changes of the inputs, the same for teachers and students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from transfuse.recipe.facts import Facts
from transfuse.recipe.methods import Auto, Block

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

CHANGES = ("crop", "flip", "resized_crop", "rotation", "randaugment", "colour", "erasing", "mixup", "cutmix")
"""the keys that change inputs, in the order in which the changes are made"""
MIXES = ("mixup", "cutmix")
ANY_NUMBERS = ("mixup",)
"""those of them that are defined for tables too"""


def _ascending(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError(f"smallest and largest, and {pair[0]:g} is more than {pair[1]:g}")
    return pair


Pair = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class ResizedCropBlock(Block):
    scale: Shares = Field(default=[0.08, 1.0])
    """smallest and largest share of the picture's area"""
    ratio: Pair = Field(default=[0.75, 1.3333333333333333])
    """smallest and largest width / height"""


class ColourBlock(Block):
    brightness: Share = 0.0
    """the factor is uniform in 1 - x .. 1 + x"""
    contrast: Share = 0.0
    """the same for the distance from the picture's mean grey"""
    saturation: Share = 0.0
    """the same for the distance from each pixel's grey"""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """the turn is uniform in -x .. x of the circle of hues"""


class RandAugmentBlock(Block):
    num_ops: Annotated[int, Field(ge=1, le=14)] = 2
    """operations that each view goes through, out of fourteen"""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """strength of all of them, 0 to 30"""


class ErasingBlock(Block):
    probability: Share = 0.25
    """share of the views that lose a rectangle"""
    scale: Shares = Field(default=[0.02, 0.33])
    """smallest and largest share of the picture's area"""
    ratio: Pair = Field(default=[0.3, 3.3])
    """smallest and largest width / height"""
    fill: Literal["noise", "mean"] = "noise"
    """what is put there: independent values, or the picture's own mean"""


class MixupBlock(Block):
    alpha: Positive = 0.2
    """the sample's own share is Beta(alpha, alpha): 1 is uniform, less is nearer to 0 or 1"""
    probability: Share = 1.0
    """share of the views that are mixed"""


class CutmixBlock(Block):
    alpha: Positive = 1.0
    """the sample's own share of the area is Beta(alpha, alpha) before the rectangle's edges are cut off"""
    probability: Share = 1.0
    """share of the views that are mixed"""


def _short(number: Callable[[float], dict[str, Any]]) -> Callable[[Any], Any]:
    """true and false for a block with its defaults and none; one number for what `number` makes of it."""

    def opened(value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        if isinstance(value, (int, float)):
            return number(value) if value else None
        return value

    return opened


def _magnitude(value: Any) -> Any:
    return (
        {"magnitude": value}
        if isinstance(value, int) and not isinstance(value, bool)
        else _short(lambda number: {"magnitude": number})(value)
    )


ResizedCrop = Annotated[
    ResizedCropBlock | None,
    BeforeValidator(_short(lambda number: {"scale": [number, 1.0]}), json_schema_input_type=ResizedCropBlock | bool | float | None),
]
Colour = Annotated[
    ColourBlock | None,
    BeforeValidator(
        _short(lambda number: {"brightness": number, "contrast": number, "saturation": number}),
        json_schema_input_type=ColourBlock | float | Literal[False] | None,
    ),
    AfterValidator(lambda block: block if block is not None and any(block.model_dump().values()) else None),
]
RandAugment = Annotated[
    RandAugmentBlock | None,
    BeforeValidator(_magnitude, json_schema_input_type=RandAugmentBlock | bool | int | None),
]
Erasing = Annotated[
    ErasingBlock | None,
    BeforeValidator(_short(lambda number: {"probability": number}), json_schema_input_type=ErasingBlock | bool | float | None),
]
Mixup = Annotated[
    MixupBlock | None,
    BeforeValidator(_short(lambda number: {"alpha": number}), json_schema_input_type=MixupBlock | bool | float | None),
]
Cutmix = Annotated[
    CutmixBlock | None,
    BeforeValidator(_short(lambda number: {"alpha": number}), json_schema_input_type=CutmixBlock | bool | float | None),
]


class _Counted(Block):
    views: Count | Literal["fresh"] | Auto = "auto"
    """fixed augmentations per sample, epoch e uses view e mod views; fresh: new ones for ever; auto: 8, or 1 where nothing is augmented"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of the views; the run's seed doesn't change them"""


class ChangesBlock(Block):
    crop: Annotated[int, Field(ge=0)] = 0
    """pad by so many pixels (reflected edges) and crop back at a random place"""
    flip: bool = False
    """mirror left-right half of the time"""
    resized_crop: ResizedCrop = None
    """a random part of the picture, resized to the whole: {scale: [0.08, 1], ratio: [0.75, 1.33]}, true, or the smallest scale"""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """turn by up to so many degrees to either side"""
    randaugment: RandAugment = None
    """random operations out of fourteen, all equally strong: {num_ops: 2, magnitude: 9}, true, or a number for the magnitude, 0 to 30"""
    colour: Colour = None
    """random {brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}, or a number for the first three"""
    erasing: Erasing = None
    """hide a random rectangle: {probability: 0.25, scale: [0.02, 0.33], ratio: [0.3, 3.3], fill: noise}, true, or a probability"""


class AugmentBlock(ChangesBlock, _Counted):
    mixup: Mixup = None
    """fade in another sample of the pool, and its label: {alpha: 0.2, probability: 1}, true, or a number for alpha; for tables too"""
    cutmix: Cutmix = None
    """put in a rectangle of another sample: {alpha: 1, probability: 1}, true, or a number for alpha; beside mixup each view takes either"""
    second: ChangesBlock | None = None
    """changes of the second view, in place of the first's, for objectives that compare two (mlld, bi_tuning), as {flip: true,
    randaugment: true}; mixup and cutmix stay. null: the first's changes, in the view after it"""

    @property
    def mixes(self) -> bool:
        """Whether views are mixtures of two samples."""
        return self.mixup is not None or self.cutmix is not None


def asked(augment: dict[str, Any]) -> list[str]:
    """The keys of a dumped block, or of its `second`, that change inputs."""
    return [name for name in CHANGES if augment.get(name)]


def changes(augment: dict[str, Any]) -> bool:
    """Whether a sample's views differ at all, the first or the second ones."""
    return bool(asked(augment) or asked(augment["second"] or {}))


def refused(augment: dict[str, Any], facts: Facts) -> list[str]:
    """Why a dumped block doesn't fit the data, one line per key; empty when it does."""
    found = []
    for prefix, block in (("augment", augment), ("augment.second", augment["second"] or {})):
        for name in asked(block):
            if facts.modality == "text" or (facts.modality == "columns" and name not in ANY_NUMBERS):
                can = f"; for tables there is {' and '.join(ANY_NUMBERS)}" if facts.modality == "columns" else ""
                found.append(f"{prefix}.{name}: only pictures can be augmented so; the data are {facts.modality}{can}")
    return found


def without_two_views(needs: Sequence[str], augment: dict[str, Any]) -> list[str]:
    """Why an objective that compares two views of each sample would compare a sample with itself, in sentences.

    Args:
        needs: of its card.
        augment: a dumped block.
    """
    if "two_views" not in needs or asked(augment["second"] or {}):
        return []
    if not asked(augment):
        why = "compares two views of each sample, and all are the same, since nothing is changed"
        return [f"{why}; set augment.crop, augment.flip or another change, or augment.second"]
    if augment["views"] == 1:
        return ["compares two views of each sample, and there is one; set augment.views to 2 or more, or augment.second"]
    return []


def unmixable(needs: Sequence[str], augment: dict[str, Any], tables: Sequence[str]) -> list[str]:
    """Why an objective can't learn from mixed samples, in sentences.

    Args:
        needs: of its card.
        augment: a dumped block.
        tables: names of the teachers that it asks which are tables of predictions.
    """
    mixing = [f"augment.{name}" for name in MIXES if augment[name]]
    if not mixing:
        return []
    found = []
    if "hard_labels" in needs:
        why = f"needs one class per sample, and with {' and '.join(mixing)} a sample has shares of two"
        found.append(f"{why}; leave one of them out (cross_entropy and kd take mixed samples)")
    for name in tables:
        found.append(
            f"teacher '{name}' is a table of predictions, which says nothing about mixed samples; leave out {' and '.join(mixing)}"
        )
    return found
