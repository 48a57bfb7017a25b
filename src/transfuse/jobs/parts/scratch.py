"""The same network with random weights: what a pretrained one is compared with."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transfuse import models
from transfuse.core.grafts import grafts_of, regraft
from transfuse.core.seeds import fresh_weights
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models.heads.linear import Linear
from transfuse.models.heads.placing import renew_head


def from_scratch(model: Model, example: Tensor, outputs: int | None, seed: int) -> Model:
    """A network of the same make, with weights that are a function of the seed, and the same preprocessing.

    A network that was given as an object is copied, and every layer in it that knows how is reset.

    Args:
        model: is not changed.
        example: inputs that it takes.
        outputs: how many it has to have; None: as many as the model.
        seed: of the weights.

    Raises:
        ModelError: it can't be made again, or has parameters that no layer resets.
    """
    found = _reset(model, seed) if model.architecture is None else _made_again(model, outputs, seed)
    if outputs is not None and _count(found, example) != outputs:  # as many as the model, or its new head, has
        renew_head(found, Linear(), outputs, example, seed)
    return found


def _count(model: Model, example: Tensor) -> int:
    with torch.no_grad():
        return model.network.eval()(example).shape[-1]


def _made_again(model: Model, outputs: int | None, seed: int) -> Model:
    assert model.architecture is not None
    options = dict(model.options)
    found, shape = options.pop("outputs", None), options.pop("input_shape", None)
    request = ModelRequest(outputs or found, tuple(shape) if shape else None, options=options, seed=seed)
    fresh = models.open_model(model.architecture, request)
    regraft(fresh.network, grafts_of(model.network))
    return replace(fresh, preprocess=model.preprocess, source=f"{model.architecture}, untrained", pretrained=False)


def _reset(model: Model, seed: int) -> Model:
    network = copy.deepcopy(model.network)
    reached: set[int] = set()
    with fresh_weights(seed):
        for layer in network.modules():
            reset: Any = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if callable(reset):
                reset()
                reached |= {id(parameter) for parameter in layer.parameters()}
    left = [name for name, parameter in network.named_parameters() if id(parameter) not in reached]
    if left:
        what = f"{model.source} has weights that can't be made random again: {', '.join(left[:3])}"
        raise ModelError(what, "control", fix="control=none, or give the network by name instead of as an object")
    return replace(model, module=network, source=f"{model.source}, untrained", pretrained=False, notes=[], fresh=())
