"""How raw inputs become one model's inputs: serialisable, so that it travels with the weights and into exports."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from transfuse.core.devices import constant
from transfuse.errors import ModelError

Resize = Literal["squash", "short_side", "crop_first"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
LARGEST_SIDE = 8192  # pixels; a mistyped size would ask for more memory than there is
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the same as Pillow's convert("L")


@dataclass(frozen=True)
class Preprocess:
    """x -> (x * scale - mean) / std, after resize, crop and channel conversion.

    Args:
        size: (height, width) of the model's input; None leaves the size.
        channels: 1 or 3; None leaves them.
        mean, std: per channel or column, after `scale`; one value serves all, three make a grey picture one of three channels. Empty means
            no normalisation.
        scale: factor for raw values; 1/255 for 8-bit images, 1 for tables.
        crop: fraction of the resized picture that the centre crop keeps, as in timm's `crop_pct`.
        resize: "squash" ignores the aspect ratio; "short_side" resizes the shorter side to size / crop and crops the centre;
            "crop_first" crops the centre, `crop` of the short side, and resizes that to size, as TensorFlow's ImageNet models did.
        interpolation: of the resize; antialiased, as Pillow does it.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    crop: float = 1.0
    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Rebuilds what `to_dict` wrote; lists become tuples, a single `size: 32` a square.

        Raises:
            ModelError: unknown key, or a value that makes no sense for one.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ModelError(f"unknown preprocess keys {sorted(unknown)}", fix=f"known: {', '.join(cls.__dataclass_fields__)}")
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        if isinstance(values.get("size"), int):
            values["size"] = (values["size"], values["size"])
        _check(values)
        return cls(**values)

    def normalise(self, values: Tensor) -> Tensor:
        """Raw [n, channels or columns, ...] -> scaled and normalised float32.

        Raises:
            ModelError: mean or std belong to another number of channels or columns.
        """
        values = values.float() * self.scale if self.scale != 1.0 else values.float()
        if self.mean or self.std:
            self._refuse_width(values)
            shape = (1, -1) + (1,) * (values.ndim - 2)
            mean = constant(tuple(self.mean) or (0.0,), values.device, torch.float32).view(shape)
            std = constant(tuple(self.std) or (1.0,), values.device, torch.float32).view(shape)
            values = (values - mean) / std
        return values

    def _refuse_width(self, values: Tensor) -> None:
        """Broadcasting would fail far from the reason or, worse, make eight columns of one without a word."""
        width, kind = values.shape[1], "columns" if values.ndim == 2 else "channels"
        fits = {0, 1, width} | ({3} if kind == "channels" and width == 1 else set())  # grey pictures become three equal channels
        for given in (self.mean, self.std):
            if len(given) not in fits:
                fix = f"its preprocess has a mean and std for each of them: give {len(given)} {kind}, or choose another model"
                raise ModelError(f"the model takes {len(given)} {kind}, the data have {width}", fix=fix)

    def __call__(self, raw: Tensor) -> Tensor:
        """The training path: a whole raw batch [n, channels, height, width] or [n, columns] on its device -> model inputs.

        The picture is already at the data's one canonical size, so it is resized straight to the model's.
        """
        if raw.ndim == 4:
            raw = self._channels(raw)
            if self.size is not None and tuple(raw.shape[-2:]) != tuple(self.size):
                raw = resize_batch(raw, self.size, self.interpolation)
        return self.normalise(raw)

    def exact_batch(self, raw: Tensor) -> Tensor:
        """The evaluation path for pictures that exist only as arrays: resize and centre crop as the model was trained with.

        Arrays that have the model's size are taken as they are, whatever `crop` says: whoever made them cut them to it. Files of that size
        are resized and cropped (`exact_image`).
        """
        if raw.ndim != 4 or self.size is None or tuple(raw.shape[-2:]) == tuple(self.size):
            return self(raw)
        raw = self._channels(raw)
        if self.resize == "crop_first":
            left, top, right, bottom = self._frame(raw.shape[-2], raw.shape[-1])
            return self.normalise(resize_batch(raw[..., top:bottom, left:right], self.size, self.interpolation))
        resized = resize_batch(raw, self._resized(raw.shape[-2], raw.shape[-1]), self.interpolation)
        return self.normalise(centre_crop(resized, self.size))

    def exact_image(self, image: Image.Image) -> Tensor:
        """The evaluation path from a picture file: Pillow's resize and centre crop, then [1, channels, height, width] floats.

        Both are done with a picture of the model's size, too, as timm and torchvision do.
        """
        image = image.convert("L" if self.channels == 1 else "RGB")
        if self.size is not None:
            if self.resize == "crop_first":
                image = image.crop(self._frame(image.height, image.width))
            height, width = self._resized(image.height, image.width)
            image = image.resize((width, height), getattr(Image.Resampling, self.interpolation.upper()))
        raw = torch.from_numpy(_pixels(image))
        return self.normalise(centre_crop(raw, self.size) if self.size is not None else raw)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        assert self.size is not None
        if self.resize == "crop_first":
            return self.size
        goal_height, goal_width = round(self.size[0] / self.crop), round(self.size[1] / self.crop)
        if self.resize == "squash":
            return goal_height, goal_width
        factor = max(goal_height / height, goal_width / width)
        return max(round(height * factor), self.size[0]), max(round(width * factor), self.size[1])

    def _frame(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the centred part that is `crop` of the largest one with the shape of `size`; each edge rounded."""
        assert self.size is not None
        part_height = self.crop * min(height, width * self.size[0] / self.size[1])
        part_width = self.crop * min(width, height * self.size[1] / self.size[0])
        edges = ((width - part_width) / 2, (height - part_height) / 2, (width + part_width) / 2, (height + part_height) / 2)
        left, top, right, bottom = (round(edge) for edge in edges)
        return left, top, right, bottom

    def _channels(self, raw: Tensor) -> Tensor:
        if self.channels is None or raw.shape[1] == self.channels:
            return raw
        if raw.shape[1] == 1:
            return raw.expand(-1, self.channels, -1, -1)
        if raw.shape[1] == 3 and self.channels == 1:
            weights = constant(tuple(LUMA), raw.device, torch.float32).view(1, 3, 1, 1)
            grey = (raw.float() * weights).sum(1, keepdim=True)
            return grey.round().to(raw.dtype) if raw.dtype == torch.uint8 else grey
        raise ModelError(f"pictures have {raw.shape[1]} channels, the model takes {self.channels}")


def _check(values: dict[str, Any]) -> None:
    """Refuses what would divide by zero or fail later, far from where it was written."""

    def numbers(key: str) -> bool:
        listed = values.get(key, ())
        return isinstance(listed, tuple) and all(isinstance(entry, (int, float)) and math.isfinite(entry) for entry in listed)

    def positive(value: Any, kind: type | tuple[type, ...]) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and value > 0  # type: ignore[arg-type]

    size, real = values.get("size"), (int, float)
    sides = isinstance(size, tuple) and len(size) == 2 and all(positive(side, int) and side <= LARGEST_SIDE for side in size)
    fits = {
        "size": (size is None or sides, f"one or two whole numbers from 1 to {LARGEST_SIDE}"),
        "channels": (values.get("channels") in (None, 1, 3), "1 or 3"),
        "mean": (numbers("mean"), "a list of finite numbers"),
        "std": (numbers("std") and all(entry > 0 for entry in values.get("std", ())), "a list of finite numbers above 0"),
        "scale": (positive(values.get("scale", 1.0), real), "a finite number above 0"),
        "crop": (positive(values.get("crop", 1.0), real), "a finite number above 0"),
        "resize": (values.get("resize", "squash") in get_args(Resize), f"one of {', '.join(get_args(Resize))}"),
        "interpolation": (
            values.get("interpolation", "bilinear") in get_args(Interpolation),
            f"one of {', '.join(get_args(Interpolation))}",
        ),
    }
    for key, (fine, needed) in fits.items():
        if not fine:
            raise ModelError(f"preprocess.{key} can't be {values[key]!r}", fix=f"give {needed}")


def _pixels(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return np.array(array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None])


def resize_batch(raw: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Antialiased resize of a whole batch; uint8 stays uint8 (rounded), as it would in Pillow."""
    if tuple(raw.shape[-2:]) == tuple(size):
        return raw
    smooth = interpolation != "nearest"
    resized = F.interpolate(raw.float(), size=size, mode=interpolation, antialias=smooth, align_corners=False if smooth else None)
    return resized.round().clamp(0, 255).to(torch.uint8) if raw.dtype == torch.uint8 else resized


def centre_crop(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (pictures.shape[-2] - size[0]) // 2, (pictures.shape[-1] - size[1]) // 2
    return pictures[..., top : top + size[0], left : left + size[1]]
