"""How alike the layers of two networks are on the same samples: linear CKA of stages, and of what their last layers are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.heads import read_ending
from transfuse.core.preprocess import Preprocess
from transfuse.core.taps import AUTO, Taps, paired
from transfuse.core.types import Samples
from transfuse.errors import ModelError
from transfuse.evaluate.fidelity import linear_cka
from transfuse.evaluate.predict import evaluation_mode

MOST_SAMPLES = 2048


def paths_of(module: nn.Module, example: Tensor) -> tuple[list[str], list[str]]:
    """(a path for each spatial resolution, [the input of the last layer]); either is empty where a network has none."""
    try:
        stages = list(Taps(module, AUTO, example).paths)
    except ModelError:
        stages = []
    try:
        last = [f"{read_ending(module, example).path}@input"]
    except ModelError:
        last = []
    return stages, last


def features(module: nn.Module, samples: Samples, preprocess: Preprocess, paths: list[str], batch_size: int = 256) -> dict[str, np.ndarray]:
    """Path -> float32 [n, channels]: features of up to 2,048 samples, evenly spread; maps are averaged over positions."""
    rows = torch.linspace(0, len(samples) - 1, min(MOST_SAMPLES, len(samples))).round().long()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    taps = Taps(module, paths, samples.exact(rows[:1], preprocess).to(device))
    found: dict[str, list[Tensor]] = {path: [] for path in taps.paths}
    with evaluation_mode(module), torch.inference_mode():
        for part in rows.split(batch_size):
            for path, feature in taps(samples.exact(part, preprocess).to(device))[1].items():
                found[path].append(_pooled(feature.float()).cpu())
    return {path: torch.cat(parts).numpy() for path, parts in found.items()}


def _pooled(feature: Tensor) -> Tensor:
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature.flatten(1)


def likeness(
    student: tuple[nn.Module, Preprocess], teacher: tuple[nn.Module, Preprocess], samples: Samples, batch_size: int = 256
) -> tuple[list[dict[str, Any]], str | None]:
    """Linear CKA of student and teacher, stage by stage from the last one backwards, and of what their last layers are given.

    Args:
        student, teacher: network and preprocessing.
        samples: what both look at.
        batch_size: samples per forward pass.

    Returns:
        ([{"student": path, "teacher": path, "cka": value}], why the list is empty or None).
    """
    (own_stages, own_last), (their_stages, their_last) = (
        paths_of(module, samples.exact([0], preprocess).to(_device(module))) for module, preprocess in (student, teacher)
    )
    own, theirs = paired(own_stages, their_stages)
    if own_last and their_last:
        own, theirs = own + own_last, theirs + their_last
    if not own:
        return [], "the networks have no features in common that could be compared"
    mine = features(student[0], samples, student[1], own, batch_size)
    others = features(teacher[0], samples, teacher[1], theirs, batch_size)
    rows = [{"student": a, "teacher": b, "cka": linear_cka(mine[a], others[b])} for a, b in zip(own, theirs, strict=True)]
    return rows, None


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
