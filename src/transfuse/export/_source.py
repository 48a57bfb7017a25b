"""A graph as a file of plain PyTorch: a function of weights and inputs, for whoever has torch and not transfuse."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from transfuse.errors import ExportError

_HEAD = '''"""The network of {file} in plain PyTorch, written by transfuse from the graph that it runs.

    from safetensors.torch import load_file
    from network import forward
    outputs = forward(load_file("{file}"), inputs)  # inputs: {inputs}, preprocessed as student.json says
"""

import torch
from torch import device, inf, nan


def forward(weights, inputs):
'''
_FORGETTING = re.compile(r";  [\w, =]+ = None$")


def source_of(program: ExportedProgram, file: str, inputs: str, dtype: str | None = None) -> str:
    """Python source with one function, `forward(weights, inputs)`.

    Args:
        program: from `capture`.
        file: name of the file that holds the weights.
        inputs: their shape, in words.
        dtype: what inputs are turned into first ("bfloat16"), and outputs back from; None: as they are.

    Raises:
        ExportError: the graph calls what isn't PyTorch's own.
    """
    lines = []
    for spec in program.graph_signature.input_specs:
        name, target = _name(spec.arg), spec.target
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.persistent is not False:
            lines.append(f"{name} = weights[{target!r}]")
        elif spec.kind == InputKind.USER_INPUT:
            lines += [f"{name} = inputs"] if name != "inputs" else []
            lines += [f"{name} = {name}.to(torch.{dtype})"] if dtype else []
        elif isinstance(constant := program.constants.get(str(target)), Tensor):
            lines.append(f"{name} = torch.tensor({constant.tolist()!r}, dtype={constant.dtype})")
        else:
            raise ExportError(f"the graph needs {spec.kind.name.lower()} '{target}', which plain PyTorch can't be given")
    lines += _body(program)
    lines[-1] = re.sub(r"^return \((\w+),\)$", r"return \1.float()" if dtype else r"return \1", lines[-1])
    return _HEAD.format(file=file, inputs=inputs) + "".join(f"    {line}\n" for line in lines)


def _name(argument: Any) -> str:
    return str(argument.name)


def _body(program: ExportedProgram) -> list[str]:
    """Statements of the graph, without the lines that only forget values."""
    foreign = [
        str(node.target) for node in program.graph.nodes if node.op == "call_function" and not _is_torchs(str(node.target), node.target)
    ]
    if foreign:
        raise ExportError(f"the graph calls {', '.join(sorted(set(foreign)))}, which plain PyTorch doesn't have")
    text = program.graph_module.code.strip().split(":\n", 1)[1] if ":\n" in program.graph_module.code else ""
    statements = [_FORGETTING.sub("", line.strip()) for line in text.splitlines() if line.strip()]
    return [line for line in statements if not re.fullmatch(r"[\w, =]+ = None", line)]


def _is_torchs(name: str, target: Any) -> bool:
    return name.startswith(("aten.", "prims.")) or getattr(target, "__module__", "") in ("_operator", "torch", "torch.sym", "math")
