"""Networks that transfuse brings itself, freshly initialised: `builtin:resnet20`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from transfuse.core.registry import did_you_mean
from transfuse.core.seeds import fresh_weights
from transfuse.core.signature import parameters
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models.architectures import Variant, variants


def open_model(name: str, request: ModelRequest) -> Model:
    """Builds a network with the request's outputs, input shape and options.

    Raises:
        ModelError: unknown name or option, wrong value, no number of outputs, pictures too small for it.
    """
    source = f"builtin:{name}"
    if name not in variants():
        raise ModelError(f"unknown architecture '{name}'{did_you_mean(name, variants())}", source, f"known: {', '.join(variants())}")
    variant = variants()[name]
    options = dict(request.options)
    outputs, shape = options.pop("outputs", None), options.pop("input_shape", None)
    outputs = request.outputs if request.outputs is not None else outputs
    shape = tuple(shape or request.input_shape or variant.input_shape or ())
    if not outputs or outputs < 1:
        raise ModelError("how many outputs?", source, "give the number of classes or targets: options: {outputs: 10}")
    _check_shape(variant, shape, source)
    settings = _settings(variant, options, source)
    with fresh_weights(request.seed):
        try:
            module = variant.constructor(outputs, shape, **variant.fixed, **settings)
        except ModelError as error:
            raise ModelError(error.what, source, error.fix) from error
    recorded = json.loads(json.dumps({**settings, "outputs": outputs, "input_shape": shape}))
    return Model(module.eval(), source, architecture=source, options=recorded)


def _check_shape(variant: Variant, shape: tuple[int, ...], source: str) -> None:
    if not shape:
        raise ModelError("what are its inputs?", source, "options: {input_shape: [1, 8, 8]} or {input_shape: [30]}")
    if not variant.smallest:
        return
    if len(shape) != 3:
        raise ModelError(f"takes pictures, and the data have {shape[0]} columns", source, "builtin:mlp takes columns")
    if min(shape[1:]) < variant.smallest:
        needed = f"{variant.smallest}x{variant.smallest}"
        raise ModelError(
            f"{shape[1]}x{shape[2]} pictures are too small for it; it needs {needed}", source, "data: {size: …}, or builtin:convnet"
        )


def _settings(variant: Variant, options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The constructor's arguments: its defaults, the name's, then the user's, checked against their annotations.

    JSON's types are meant strictly ("2" is not 2), but a list serves for a tuple.
    """
    known = {
        parameter.name: parameter
        for parameter in parameters(variant.constructor)
        if parameter.name not in ("outputs", "input_shape", *variant.fixed)
    }
    for name in options:
        if name in variant.fixed:
            raise ModelError(f"the name already decides '{name}' ({variant.fixed[name]})", source, f"options: {', '.join(known)}")
        if name not in known:
            raise ModelError(f"unknown option '{name}'{did_you_mean(name, known)}", source, f"options: {', '.join(known)}")
    settings = {name: parameter.default for name, parameter in known.items()} | variant.defaults
    for name, value in options.items():
        try:
            settings[name] = TypeAdapter(known[name].annotation).validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ModelError(f"option '{name}' can't be {value!r}: {reason}", source, known[name].description or None) from error
    return settings


@cache
def catalog() -> Mapping[str, str]:
    """Name -> parameters with 10 outputs, and what it is."""
    lines = {}
    for name, variant in variants().items():
        shape = variant.input_shape or ((3, 32, 32) if variant.smallest else (64,))
        settings = _settings(variant, {}, name)
        with torch.device("meta"):
            module: nn.Module = variant.constructor(10, shape, **variant.fixed, **settings)
        count = sum(parameter.numel() for parameter in module.parameters())
        lines[name] = f"{count:,} parameters ({'x'.join(map(str, shape))} in, 10 out); {variant.summary}"
    return lines
