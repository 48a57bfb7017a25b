"""Networks of torchvision: `torchvision:resnet18`, `torchvision:resnet18@DEFAULT`, `torchvision:resnet18@weights.pth`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from transfuse.core.preprocess import Preprocess
from transfuse.core.registry import did_you_mean
from transfuse.core.seeds import fresh_weights
from transfuse.core.types import Model, ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models.heads.linear import Linear
from transfuse.models.heads.placing import renew_head

_OUTPUTS = 1000  # of torchvision's own constructors, where nobody says how many
_AUXILIARY = ("googlenet", "inception_v3")  # have extra heads in training, which no other code here expects


def _models() -> ModuleType:
    return import_torchvision().models


@cache
def _names() -> tuple[str, ...]:
    """Classification networks only."""
    models = _models()
    return tuple(models.list_models(module=models))


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens a network, with `@` fresh, named or local weights; a head of another size is replaced, and a note says so.

    Preprocessing is that of the weights; fresh networks get that of the network's default weights.

    Raises:
        ModelError: unknown network or weights; weights that can't be fetched or don't fit.
        MissingExtra: torchvision is not installed.
    """
    architecture, at, wanted = name.partition("@")
    source = f"torchvision:{name}"
    if architecture not in _names():
        raise ModelError(f"torchvision has no network '{architecture}'{did_you_mean(architecture, _names())}", source)
    if not at:
        return _fresh(architecture, request)
    if "/" in wanted or Path(wanted).suffix in (".pth", ".pt", ".th", ".safetensors"):
        from transfuse.models import file

        model = file.open_model(wanted, replace(request, architecture=f"torchvision:{architecture}"))
        return replace(model, source=source)
    return _pretrained(architecture, wanted, request, source)


def _fresh(architecture: str, request: ModelRequest) -> Model:
    source = f"torchvision:{architecture}"
    options = dict(request.options)
    outputs = options.pop("outputs", None)
    outputs = request.outputs if request.outputs is not None else outputs
    weights = _models().get_model_weights(architecture)
    settings = {**_settings(architecture, options), **({} if outputs is None else {"num_classes": outputs})}
    with fresh_weights(request.seed):
        module = _build(architecture, None, settings, source)
    recorded = {**options, "outputs": outputs or _OUTPUTS}
    preprocess = _preprocess(weights.DEFAULT) if len(weights) else None
    return Model(module.eval(), source, architecture=source, options=recorded, preprocess=preprocess)


def _pretrained(architecture: str, wanted: str, request: ModelRequest, source: str) -> Model:
    weights = _models().get_model_weights(architecture)
    known = [*weights.__members__]
    wanted = wanted.rpartition(".")[2]  # ResNet18_Weights.IMAGENET1K_V1 is IMAGENET1K_V1
    if wanted not in known:
        raise ModelError(f"no weights '{wanted}'{did_you_mean(wanted, known)}", source, f"known: {', '.join(known) or 'none'}; or a file")
    entry = weights[wanted]
    options = {key: value for key, value in request.options.items() if key != "outputs"}
    module = _build(architecture, entry, _settings(architecture, options), source)
    if architecture in _AUXILIARY:
        options["transform_input"] = True  # which torchvision turns on for these weights
    outputs, preprocess = len(entry.meta["categories"]), _preprocess(entry)
    model = Model(
        module.eval(),
        source,
        architecture=f"torchvision:{architecture}",
        options={**options, "outputs": outputs},
        preprocess=preprocess,
        classes=list(entry.meta["categories"]),
        pretrained=True,
    )
    if request.outputs is not None and request.outputs != outputs:
        renew_head(model, Linear(), request.outputs, torch.zeros(1, 3, *(preprocess.size or ())), request.seed)
        model.classes = None
        model.notes.append(f"the last layer was replaced: the weights have {outputs} outputs, {request.outputs} are needed")
    return model


def _settings(architecture: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"aux_logits": False, "init_weights": True, **options} if architecture in _AUXILIARY else dict(options)


def _build(architecture: str, weights: Any, settings: dict[str, Any], source: str) -> torch.nn.Module:
    try:
        return _models().get_model(architecture, weights=weights, **settings)
    except OSError as error:  # urllib's URLError is one
        raise ModelError(
            f"can't fetch {weights.url}: {error}",
            where=source,
            fix=f"put the file into {torch.hub.get_dir()}/checkpoints, or name a local one: torchvision:{architecture}@PATH.pth",
        ) from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"torchvision refuses the options: {error}", source) from error


def _preprocess(weights: Any) -> Preprocess:
    """From torchvision's ImageClassification transform: resize the short side, crop the centre, normalise."""
    steps = weights.transforms()
    crop, resize = steps.crop_size[0], steps.resize_size[0]
    return Preprocess(
        size=(crop, crop),
        channels=3,
        mean=tuple(steps.mean),
        std=tuple(steps.std),
        scale=1 / 255,
        crop=crop / resize,
        resize="short_side",
        interpolation=steps.interpolation.value,
    )


@cache
def catalog() -> Mapping[str, str]:
    """Name -> parameters and the weights that torchvision offers."""
    lines = {}
    for name in _names():
        weights = _models().get_model_weights(name)
        count = f"{weights.DEFAULT.meta['num_params']:,} parameters; " if len(weights) else ""
        lines[name] = f"{count}weights: {', '.join(weights.__members__) or 'none'}"
    return lines
