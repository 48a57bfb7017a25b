"""What a batch of views costs, beside torchvision's transforms on one picture after the other.

    python -m benchmarks.augment

For 128 pictures of CIFAR-10 and 32 of ants and bees at 224x224: our operations on the whole batch, and torchvision.transforms.v2 on each
picture (uint8 tensors), as a data loader's worker would call it; its mixup and cutmix take the whole batch and one share for all of it.
Both do the same kind of change with the same settings; torchvision draws its numbers, ours are computed. Blocks of the two take turns in
one process on one thread; times are seconds of that thread, so that other processes on the machine count as little as can be, and ratios
are medians over pairs of neighbouring blocks.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import data, results
from transfuse.core.vision import import_torchvision
from transfuse.jobs.train.training import views_of
from transfuse.recipe.augment import AugmentBlock

BLOCKS = 15


def cases(v2: Any, side: int) -> dict[str, tuple[dict[str, Any], Any]]:
    """Name -> our recipe block, and torchvision's transform of one picture; mixup and cutmix are whole batches' there, too."""
    crop = side // 8
    flipped = [v2.RandomCrop(side, padding=crop, padding_mode="reflect"), v2.RandomHorizontalFlip()]
    return {
        "crop and flip": ({"crop": crop, "flip": True}, v2.Compose(flipped)),
        "resized_crop": ({"resized_crop": True}, v2.RandomResizedCrop(side, antialias=True)),
        "rotation": ({"rotation": 15.0}, v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR)),
        "randaugment": ({"randaugment": True}, v2.RandAugment()),
        "colour": ({"colour": 0.4}, v2.ColorJitter(0.4, 0.4, 0.4)),
        "hue": ({"colour": {"hue": 0.1}}, v2.ColorJitter(hue=0.1)),
        "erasing": ({"erasing": 0.25}, v2.RandomErasing(0.25, value="random")),
        "mixup": ({"mixup": 0.2}, v2.MixUp(alpha=0.2, num_classes=10)),
        "cutmix": ({"cutmix": 1.0}, v2.CutMix(alpha=1.0, num_classes=10)),
        "crop, flip, randaugment, erasing": (
            {"crop": crop, "flip": True, "randaugment": True, "erasing": 0.25},
            v2.Compose([*flipped, v2.RandAugment(), v2.RandomErasing(0.25, value="random")]),
        ),
    }


def cifar_pictures() -> Tensor:
    """uint8 [128, 3, 32, 32]."""
    return torch.from_numpy(data.cifar10()["x_train"][:128].transpose(0, 3, 1, 2).copy())


def insects() -> Tensor:
    """uint8 [32, 3, 224, 224]."""
    files = sorted((data.hymenoptera_folder() / "train").rglob("*.jpg"))[:32]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in files]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())


def ours(pictures: Tensor, recipe: dict[str, Any]) -> Callable[[int], Tensor]:
    """A function from a view's number to the batch in this view."""
    views = views_of(AugmentBlock.model_validate({**recipe, "views": 1000}))
    ids = torch.arange(len(pictures))

    def batch(view: int) -> Tensor:
        which = torch.full_like(ids, view)
        mixture = views.mixture(ids, which, len(ids))
        own = views.apply(pictures, ids, which)
        return own if mixture is None else mixture.blend(own, pictures[mixture.partners])[0]  # partners were fetched for torchvision, too

    return batch


def theirs(pictures: Tensor, transform: Any, whole: bool) -> Callable[[int], Tensor]:
    """The same by torchvision: picture by picture, or on the whole batch where it does that itself."""
    labels = torch.arange(len(pictures)) % 10

    def batch(view: int) -> Tensor:
        if whole:
            return transform(pictures.float(), labels)[0]  # it mixes floats only
        return torch.stack([transform(picture) for picture in pictures])

    return batch


def seconds(function: Callable[[int], Tensor], block: int) -> float:
    """Of this thread, for one batch, over a block of at least three batches and a tenth of a second."""
    began, count = time.thread_time(), 0
    while count < 3 or time.thread_time() - began < 0.1:
        function(100 * block + count)
        count += 1
    return (time.thread_time() - began) / count


def measure(pictures: Tensor, recipe: dict[str, Any], transform: Any, name: str) -> dict[str, float]:
    """Milliseconds per batch of ours and theirs, and how many times longer theirs takes."""
    pair = ours(pictures, recipe), theirs(pictures, transform, name in ("mixup", "cutmix"))
    for function in pair:
        function(0)
    blocks = [tuple(seconds(function, block) for function in pair) for block in range(1, BLOCKS + 1)]
    ratios = sorted(slow / fast for fast, slow in blocks)
    return {
        "ours_ms": round(1e3 * statistics.median(fast for fast, _ in blocks), 2),
        "torchvision_ms": round(1e3 * statistics.median(slow for _, slow in blocks), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_low": round(ratios[BLOCKS // 10], 2),
        "ratio_high": round(ratios[-1 - BLOCKS // 10], 2),
    }


@click.command(help=__doc__)
def main() -> None:
    torch.set_num_threads(1)
    version = import_torchvision().__version__
    v2 = importlib.import_module("torchvision.transforms.v2")
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for title, pictures in (("128 pictures of 32x32", cifar_pictures()), ("32 pictures of 224x224", insects())):
        found[title] = {}
        for name, (recipe, transform) in cases(v2, pictures.shape[-1]).items():
            found[title][name] = measure(pictures, recipe, transform, name)
            click.echo(f"{title}, {name}: {found[title][name]}")
    click.echo(results.write("augment", {"torchvision": version, "blocks": BLOCKS, "batches": found}))


if __name__ == "__main__":
    main()
