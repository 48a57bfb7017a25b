"""Weights as safetensors, with the network as a page of plain PyTorch beside them: opens with transfuse, and with torch alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.atomic import replacing
from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Model
from transfuse.errors import ExportError, ModelError
from transfuse.export._beside import STEM
from transfuse.export._graph import capture
from transfuse.export._source import source_of
from transfuse.models import open_model, save_model
from transfuse.models.classes import SelectedOutputs
from transfuse.models.saving import read_sidecar
from transfuse.models.weights import read_state

SOURCE = "network.py"


class Safetensors:
    """student.safetensors, student.json and network.py, which holds `forward(weights, inputs)` without any class of ours."""

    packages: tuple[str, ...] = ()
    dtype: str | None = None  # that the weights are turned into

    @property
    def marks(self) -> tuple[float, float] | None:
        return None

    def rehearse(self, request: ExportRequest) -> None:
        """Nothing can go wrong: where a network can't be traced, network.py is left out."""

    def write(self, request: ExportRequest) -> Written:
        """Writes the three files; without network.py where the network can't be traced, which is said."""
        file, model, example = request.folder / f"{STEM}.safetensors", request.model, request.example
        facts: dict[str, Any] = {"task": request.task}
        if self.dtype is not None:
            dtype = getattr(torch, self.dtype)
            model, example = replace(model, module=copy.deepcopy(model.network).to(dtype)), example.to(dtype)
            facts["dtype"] = self.dtype
        save_model(model, file, facts)
        (request.folder / SOURCE).unlink(missing_ok=True)
        try:
            text = source_of(capture(_stored(model.network), example), file.name, _shape(example), self.dtype)
        except ExportError as error:
            return Written(file, notes=[f"no {SOURCE} beside it: {error.what}"])
        with replacing(request.folder / SOURCE) as temporary:
            temporary.write_text(_choosing(model.network, text), encoding="utf-8")
        return Written(file, {"source": SOURCE})

    def open(self, folder: Path) -> Model:
        """The weights in network.py's function; where there is none, in the architecture that student.json names.

        Raises:
            ModelError: neither is there.
        """
        file = folder / f"{STEM}.safetensors"
        if not (folder / SOURCE).is_file():
            return open_model(f"file:{file}")
        told = read_sidecar(file)
        if told is None:
            raise ModelError("there is no student.json beside it", str(file), "export it again")
        weights = read_state(file, trusted=False)
        network = _PlainForward((folder / SOURCE).read_text(encoding="utf-8"), weights)
        return Model(network.eval(), f"file:{file}", None, told.options, told.preprocess, told.classes, told.target, pretrained=True)


def _stored(network: nn.Module) -> nn.Module:
    """The network that the file has the weights of: all outputs, where some are chosen."""
    return network.network if isinstance(network, SelectedOutputs) else network


def _choosing(network: nn.Module, text: str) -> str:
    """The source; where some of the stored network's outputs are chosen, its last line does that."""
    if not isinstance(network, SelectedOutputs):
        return text
    head, _, last = text.rstrip("\n").rpartition("\n    return ")
    return f"{head}\n    return {last}[:, {network.outputs.tolist()}]  # those of its outputs that were chosen\n"


def _shape(example: Tensor) -> str:
    return f"float32 [batch, {', '.join(map(str, example.shape[1:]))}]"


class _PlainForward(nn.Module):
    """The function of a network.py that was just written here, with its weights.

    Args:
        text: the file's content.
        weights: by name.
    """

    def __init__(self, text: str, weights: dict[str, Tensor]):
        super().__init__()
        space: dict[str, Any] = {}
        exec(compile(text, SOURCE, "exec"), space)  # our own file of a moment ago; opening somebody's export never comes here
        self._function: Callable[[dict[str, Tensor], Tensor], Tensor] = space["forward"]
        self._weights = weights

    def forward(self, inputs: Tensor) -> Tensor:
        return self._function(self._weights, inputs)
