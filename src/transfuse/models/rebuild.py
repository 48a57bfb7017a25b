"""Builds the network that a state dict belongs to, reading from the weights what nobody has said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from transfuse.core.grafts import regraft
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model
from transfuse.models.surgery import find_head, head_parameters, replace_head
from transfuse.models.weights import fit_names, load_into


def rebuild(architecture: str, state: dict[str, Tensor], request: ModelRequest, where: str, grafts: Sequence[dict[str, Any]] = ()) -> Model:
    """A network of the architecture with the weights; its outputs and input channels are the file's.

    Layers that were put into it (`core.grafts`) are put in again. Where the request wants another number of outputs than the file has, the
    last layer is replaced, and a note says so.

    Raises:
        ModelError: unknown architecture, or weights that don't fit it.
    """
    if architecture.split(":")[0] not in ("builtin", "timm", "torchvision", "ensemble", "fused") and ":" in architecture:
        raise ModelError(f"{architecture} can't be rebuilt from its name", where, "architecture: builtin:…, timm:… or torchvision:…")
    wanted = request.outputs
    options = dict(request.options)
    shape = options.get("input_shape") or request.input_shape
    if shape is None and architecture == "builtin:mlp":
        shape = _columns(state)
    plain = replace(
        request, architecture=None, options=options, outputs=options.get("outputs"), input_shape=tuple(shape) if shape else None
    )
    if plain.outputs is None and architecture.startswith("builtin:"):
        plain = replace(plain, outputs=wanted or 10)  # a first guess: the file knows better
    model = open_model(architecture, plain)
    said = _said_by_file(model, state, plain)
    if said is not None:
        model = open_model(architecture, said)
    regraft(model.network, grafts)
    load_into(model.network, state, where)
    model.pretrained = True
    outputs = model.options["outputs"]
    if wanted is not None and wanted != outputs:
        if architecture.startswith("ensemble:"):
            fix = "distil it into a network of its own first, or name outputs with classes: {name: output number, ...}"
            raise ModelError(f"an ensemble keeps its {outputs} outputs, {wanted} were asked for", where, fix)
        replace_head(model.network, wanted, request.seed)
        model.fresh = head_parameters(model.network)
        model.options["outputs"] = wanted
        model.notes.append(f"the last layer was replaced: the file has {outputs} outputs, {wanted} are needed")
    return model


def _columns(state: dict[str, Tensor]) -> tuple[int, ...] | None:
    """Inputs of the first linear layer of a state dict."""
    return next(((value.shape[1],) for value in state.values() if value.ndim == 2), None)


def _said_by_file(model: Model, state: dict[str, Tensor], request: ModelRequest) -> ModelRequest | None:
    """The request with the file's own outputs and input channels, or None where the draft already has them."""
    draft = model.network
    named = fit_names(state, draft)
    said = request
    head = find_head(draft)
    if head is not None:
        rows = named.get(f"{head[0]}.weight")
        if rows is not None and rows.shape[0] != head[1].weight.shape[0]:
            said = replace(said, outputs=rows.shape[0], options={**said.options, "outputs": rows.shape[0]})
    stem = next(((path, layer) for path, layer in draft.named_modules() if isinstance(layer, nn.Conv2d)), None)
    kernel = named.get(f"{stem[0]}.weight") if stem is not None else None
    if stem is not None and kernel is not None and kernel.ndim == 4 and kernel.shape[1] != stem[1].weight.shape[1]:
        channels = kernel.shape[1] * stem[1].groups
        if "input_shape" in model.options:
            shape = (channels, *model.options["input_shape"][1:])
            said = replace(said, input_shape=shape, options={**said.options, "input_shape": list(shape)})
        elif "in_chans" in model.options:
            said = replace(said, options={**said.options, "in_chans": channels})
    return None if said is request else said
