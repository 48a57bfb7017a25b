"""A network in a .pt2 file of torch.export: a graph with its weights, which needs no class of ours to run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from transfuse.core.types import Model
from transfuse.errors import ModelError
from transfuse.models.saving import Sidecar, read_sidecar


class ExportedNetwork(nn.Module):
    """A program of torch.export as a module in eval mode, whatever mode it is told: a program has one.

    Args:
        program: what `torch.export.load` gave.
    """

    def __init__(self, program: Any):
        super().__init__()
        self.program = program.module()

    def train(self, mode: bool = True) -> Self:
        self.training = False
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return self.program(inputs)


def open_exported(path: Path, trusted: bool) -> Model:
    """Opens a .pt2 file; preprocessing, classes and scaling come from the .json beside it.

    Raises:
        ModelError: missing, not trusted, damaged, or quantised by a package that is not installed.
    """
    if not path.is_file():
        raise ModelError("no such file", str(path))
    if not trusted:
        raise ModelError(
            "a .pt2 file can hold pickled objects, which can run code when opened",
            where=str(path),
            fix="say trusted: true (--trusted, trusted=True) if the file is your own; .safetensors and .onnx files need no trust",
        )
    told = read_sidecar(path) or Sidecar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            _register_operators(told)
            network = ExportedNetwork(torch.export.load(path))
    except Exception as error:  # unpickling and rebuilding a graph can fail in any way
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"can't be opened as a program of torch.export: {first}", str(path), "export it again") from error
    return Model(
        network.eval(),
        f"file:{path}",
        options=dict(told.options),
        preprocess=told.preprocess,
        classes=told.classes,
        target=told.target,
        pretrained=True,
        notes=["opened as a program: the file was declared trusted"],
    )


def _register_operators(told: Sidecar) -> None:
    """Imports the package whose operators the graph uses, where there is one; a .json can't name any other."""
    if told.operators == "torchao":
        import torchao.quantization  # noqa: F401  # pyright: ignore[reportMissingImports]
