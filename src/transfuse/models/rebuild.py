"""Builds the network that a state dict belongs to, reading from the weights what nobody has said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.grafts import regraft
from transfuse.core.preprocess import Preprocess
from transfuse.core.taps import undisturbed
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model
from transfuse.models.architectures import variants
from transfuse.models.heads.linear import Linear
from transfuse.models.heads.placing import renew_head
from transfuse.models.weights import differences, fit_names, load_into

_EDGES = 3  # tensors whose shape the data decide: the first kernel, weight and bias of the last layer


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
    try:
        load_into(model.network, state, where, architecture)
    except ModelError as error:
        alike = _alike(state) if architecture.startswith("builtin:") else []
        fits = alike and architecture not in alike  # else it is the options that differ
        known = f"{' and '.join(alike)} ha{'s' if len(alike) == 1 else 've'} these names and shapes" if fits else error.fix
        raise ModelError(f"{where}: {error.what}", "architecture", known) from error
    model.pretrained = True
    outputs = model.options["outputs"]
    if wanted is not None and wanted != outputs:
        if architecture.startswith("ensemble:"):
            fix = "distil it into a network of its own first, or name outputs with classes: {name: output number, ...}"
            raise ModelError(f"an ensemble keeps its {outputs} outputs, {wanted} were asked for", where, fix)
        renew_head(model, Linear(), wanted, _blank(model, request, where), request.seed)
        model.notes.append(f"the last layer was replaced: the file has {outputs} outputs, {wanted} are needed")
    return model


def _columns(state: dict[str, Tensor]) -> tuple[int, ...] | None:
    """Inputs of the first linear layer of a state dict."""
    return next(((value.shape[1],) for value in state.values() if value.ndim == 2), None)


def _alike(state: dict[str, Tensor]) -> list[str]:
    """Built-in networks that such weights belong to, outputs and input channels aside."""
    found = []
    for name in variants():
        try:
            with torch.device("meta"):
                draft = open_model(f"builtin:{name}", ModelRequest(outputs=10, input_shape=(3, 32, 32))).network
        except ModelError:  # takes no pictures
            continue
        missing, unexpected, shapes = differences(draft, fit_names(state, draft))
        if not missing and not unexpected and len(shapes) <= _EDGES:
            found.append(f"builtin:{name}")
    return found


def _blank(model: Model, request: ModelRequest, where: str) -> Tensor:
    """One sample of zeros that the network takes.

    Raises:
        ModelError: nothing says of which shape that is.
    """
    tried = list(dict.fromkeys(tuple(shape) for shape in (*_shapes(model.options, model.preprocess), request.input_shape) if shape))
    for shape in tried:
        inputs = torch.zeros(1, *shape)
        try:
            with undisturbed(model.network):
                model.network(inputs)
        except (RuntimeError, ValueError, TypeError, AssertionError):
            continue
        return inputs
    shown = ", ".join("x".join(map(str, shape)) for shape in tried) or "none is known"
    what = f"its last layer can't be found, as {model.source} takes none of the inputs it was shown ({shown})"
    raise ModelError(what, where, "say how large they are with options, such as {img_size: 224}")


def _shapes(options: Mapping[str, Any], preprocess: Preprocess | None) -> Iterator[Sequence[int] | None]:
    """Shapes that inputs might have, as far as a network's options and preprocessing, or those of its members, tell."""
    yield options.get("input_shape")
    channels = options.get("in_chans") or (preprocess.channels if preprocess is not None else None) or 3
    for size in (options.get("img_size"), preprocess.size if preprocess is not None else None):
        if size:
            yield channels, *(size if isinstance(size, (list, tuple)) else (size, size))
    for member in options.get("members", []):
        yield from _shapes(member["options"], Preprocess.from_dict(member["preprocess"]))


def _said_by_file(model: Model, state: dict[str, Tensor], request: ModelRequest) -> ModelRequest | None:
    """The request with the file's own outputs and input channels, or None where the draft already has them."""
    draft = model.network
    named = fit_names(state, draft)
    said = request
    outputs = model.options.get("outputs")
    own = {name: value.shape for name, value in draft.state_dict().items() if name in named and value.shape != named[name].shape}
    # what has a row for each output, and another number of rows in the file: the last layer, its bias, its twins
    rows = {named[name].shape[0] for name, shape in own.items() if shape[:1] == (outputs,) and shape[1:] == named[name].shape[1:]}
    if len(rows) == 1:
        said = replace(said, outputs=(found := rows.pop()), options={**said.options, "outputs": found})
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
