"""Quantising linear layers with torchao, for its two targets."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from transfuse.core.shipping import ExportRequest, Written
from transfuse.errors import ExportError
from transfuse.export._graph import capture, first_line, quiet
from transfuse.export.torch_export import write_program

PACKAGES = ("torchao",)


def rehearse(request: ExportRequest) -> None:
    """Looks for linear layers and traces the network.

    Raises:
        ExportError: there is none, or it can't be traced.
    """
    _linear_layers(request.model.network)
    capture(request.model.network, request.example)


def _linear_layers(network: nn.Module) -> int:
    found = sum(isinstance(module, nn.Linear) for module in network.modules())
    if not found:
        raise ExportError("the network has no linear layer, and torchao quantises no other", fix="export to onnx_int8 instead")
    return found


def write_quantised(request: ExportRequest, config: Any) -> Written:
    """Quantises a copy of the network and writes its program.

    Args:
        request: what is exported.
        config: one of `torchao.quantization`'s.

    Raises:
        ExportError: the network has no linear layer, or torchao can't quantise it.
    """
    from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

    network = copy.deepcopy(request.model.network).requires_grad_(False)
    linear = _linear_layers(network)
    others = sum(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules())
    try:
        with quiet():
            quantize_(network, config)
    except Exception as error:  # torchao asserts and raises many things
        raise ExportError(f"torchao can't quantise the network: {first_line(error)}", fix="export to onnx_int8 instead") from error
    written = write_program(request, capture(network, request.example), operators="torchao")
    written.facts["layers"] = {"quantised": linear, "all": linear + others}
    if others:
        written.notes.append(f"{linear} of {linear + others} layers are in 8 bits: torchao leaves convolutions as they are")
    return written
