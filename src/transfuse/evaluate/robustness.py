"""Errors on corrupted pictures: every model sees the same ones, made once for all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Samples
from transfuse.errors import DataError
from transfuse.evaluate import corruptions
from transfuse.evaluate.outcomes import columns, to_array
from transfuse.evaluate.predict import evaluation_mode

Networks = Mapping[str, tuple[nn.Module, Preprocess]]
CLEAN = "clean"


def refuse_unfit(samples: Samples, task: str) -> None:
    """
    Raises:
        DataError: the corruptions are not defined for these data.
    """
    first = samples.raw([0])
    if task != "classification" or first.ndim != 4 or first.dtype != torch.uint8 or first.shape[1] not in (1, 3):
        what = "corruptions are defined for 8-bit pictures in grey or colour, with one class each"
        raise DataError(what, where="robustness", fix="leave robustness out for these data")


def positions(count: int, most: int | None) -> np.ndarray:
    """int64: which samples are corrupted, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most or count)).round().astype(np.int64))


def errors(
    networks: Networks,
    samples: Samples,
    rows: np.ndarray,
    name: str,
    seed: int,
    severities: Sequence[int] = corruptions.SEVERITIES,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Share of wrong answers of every network, for every severity of one corruption; for "clean" the one share without any.

    Pictures are corrupted at the size at which the data hold them, and then go through each model's own resize and normalisation.

    Args:
        networks: name -> network, on its device, and preprocessing.
        samples: labelled pictures.
        rows: which of them.
        name: a corruption, or "clean".
        seed: of the corruption.
        severities: which of them, rising.
        tell: called with (done, all) chunks.
    """
    severities = (0,) if name == CLEAN else severities
    wrong = {model: [0] * len(severities) for model in networks}
    labels = samples.labels[torch.from_numpy(rows)].numpy()
    chunks = list(corruptions.chunks(len(rows)))
    for number, start, stop in chunks:
        raw = samples.raw(torch.from_numpy(rows[start:stop])).cpu().numpy()
        for place, severity in enumerate(severities):
            changed = raw if name == CLEAN else corruptions.corrupt(raw, name, severity, seed, number)
            for model, (module, preprocess) in networks.items():
                said = _predicted(module, preprocess.exact_batch(torch.from_numpy(changed)))
                wrong[model][place] += int((said != labels[start:stop]).sum())
        if tell is not None:
            tell(number + 1, len(chunks))
    return {model: [count / len(rows) for count in counts] for model, counts in wrong.items()}


def _predicted(module: nn.Module, inputs: Tensor) -> np.ndarray:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with evaluation_mode(module), torch.inference_mode():
        return columns("classification", to_array(module(inputs.to(device)))).argmax(1)


def summed_up(
    found: Mapping[str, Mapping[str, list[float]]], samples: int, size: tuple[int, int], severities: Sequence[int] = corruptions.SEVERITIES
) -> dict[str, Any]:
    """The block of summary.json: for each model its errors and their means.

    Args:
        found: corruption (and "clean") -> model -> errors, as `errors` gives them.
        samples: how many pictures were corrupted.
        size: height and width at which.
        severities: as `errors` was given them.

    Returns:
        {"definition", "samples", "severities", "models": {name: {"clean_error", "errors", "mean_corruption_error", "mean_increase"}}}. The
        mean corruption error is over corruptions and severities and isn't divided by another network's; `mean_increase` is what it adds
        to the error on the same pictures uncorrupted.
    """
    kinds = [name for name in found if name != CLEAN]
    models = {}
    for model, (clean,) in found[CLEAN].items():
        own = {name: found[name][model] for name in kinds}
        mean = float(np.mean([np.mean(values) for values in own.values()]))
        models[model] = {"clean_error": clean, "errors": own, "mean_corruption_error": mean, "mean_increase": mean - clean}
    return {
        "definition": corruptions.constants(*size),
        "samples": samples,
        "severities": list(severities),
        "models": models,
    }
