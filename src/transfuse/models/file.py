"""Weights in a file: safetensors with its .json beside it, a state dict for a named architecture (`file:r56.th`), an exported program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models.classes import SelectedOutputs
from transfuse.models.exported import open_exported
from transfuse.models.rebuild import rebuild
from transfuse.models.saving import Sidecar, read_sidecar
from transfuse.models.weights import read_state


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens a file of weights; architecture, options, preprocess and classes come from the .json beside it or from the request.

    Raises:
        ModelError: missing or damaged file, unknown architecture, weights that don't fit it, a pickle that isn't trusted.
    """
    path = Path(name).expanduser()
    if path.suffix == ".pt2":
        return open_exported(path, request.trusted)
    if path.suffix == ".onnx":
        raise ModelError("an ONNX file is a network, not weights", f"file:{name}", f"write onnx:{name}")
    found = read_state(path, request.trusted)
    if isinstance(found, nn.Module):
        return Model(found.eval().float(), f"file:{name}", pretrained=True, notes=["unpickled: the file was declared trusted"])
    sidecar = read_sidecar(path) or Sidecar()
    architecture = request.architecture or sidecar.architecture
    if architecture is None:
        if sidecar.source.startswith("live:"):
            fix = f"rebuild {sidecar.source.removeprefix('live:')} in Python and use transfuse.models.load_weights(module, path)"
            raise ModelError("the weights belong to a module that was given as an object", str(path), fix)
        raise ModelError(
            "the file doesn't say which network it belongs to", str(path), "architecture: builtin:resnet20 (timm:…, torchvision:…)"
        )
    selected = sidecar.select if request.outputs in (None, len(sidecar.select or ())) else None
    wanted = replace(request, options={**sidecar.options, **request.options}, outputs=None if selected else request.outputs)
    model = rebuild(architecture, found, wanted, str(path), sidecar.grafts)
    if selected:
        model.module = SelectedOutputs(model.network, selected)
    model.source = f"file:{name}"
    model.preprocess = sidecar.preprocess or (model.preprocess if sidecar.architecture is None else None)
    outputs = len(selected) if selected else model.options["outputs"]
    named = len(sidecar.classes or ())
    model.classes = sidecar.classes if named == outputs or (named == 2 and outputs == 1) else None  # a single logit is for two classes
    model.target = sidecar.target
    return model


def catalog() -> Mapping[str, str]:
    """How a file is named; there is nothing to choose from."""
    return {"PATH": "weights in .safetensors (with its .json), or .pt .pth .th with architecture: …; .pt2 of torch.export"}
