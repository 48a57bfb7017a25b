"""A network as a graph of torch.export with any number of samples per batch, and words for what can't be one."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from transfuse.errors import ExportError

_LINES = 300  # characters of somebody else's message


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, log lines and prints that exporters and quantisers utter about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def capture(network: nn.Module, example: Tensor) -> ExportedProgram:
    """The graph that a network runs in eval mode; its weights stay under their names.

    Args:
        network: in eval mode.
        example: at least two inputs; no data of anybody's, since a .pt2 file keeps them.

    Raises:
        ExportError: the network does something that a graph can't hold, such as deciding by an input's values; says in which module.
    """
    dynamic = ({0: Dim("batch", min=1)},)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # tracing runs the network's own code, which can fail in any way
        place = module_in(error.__traceback__, network)
        raise ExportError(
            f"{type(network).__name__} can't be traced into a graph: {first_line(error)}",
            where=f"module '{place}'" if place else None,
            fix="rewrite that module without decisions on values or a fixed batch size, or export to safetensors",
        ) from error


def module_in(traceback: TracebackType | None, network: nn.Module) -> str:
    """Path of the innermost of the network's modules whose code was running when an error was raised; empty for the network itself."""
    paths = {id(module): path for path, module in network.named_modules()}
    found = ""
    while traceback is not None:
        found = paths.get(id(traceback.tb_frame.f_locals.get("self")), "") or found
        traceback = traceback.tb_next
    return found


def module_of(node: Any) -> str:
    """Path of the module that a node of a graph came from; empty where it isn't known."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def first_line(error: BaseException) -> str:
    """Somebody else's message in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LINES]
