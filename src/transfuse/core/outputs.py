"""What a network's forward pass gives, whatever its form: one tensor, a tuple of them, or an object with names (`logits`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

MAIN = ("logits", "output", "out", "pred", "predictions")  # what the outputs that matter are called, where outputs have names


def run(network: nn.Module, example: Any) -> Any:
    """A forward pass: a tensor is the only argument, a tuple holds all arguments in order, a mapping holds them by name."""
    if isinstance(example, Mapping):
        return network(**example)
    return network(*example) if isinstance(example, tuple) else network(example)


def named_tensors(output: Any) -> dict[str, Tensor]:
    """Every tensor in an output by its name: "" for a plain tensor, "0" in a tuple, "logits" in a mapping, "0.logits" further in."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, Mapping):
        entries = [(str(name), value) for name, value in output.items()]
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        entries = list(zip(output._fields, output, strict=True))  # type: ignore[attr-defined]
    elif isinstance(output, (tuple, list)):
        entries = [(str(number), value) for number, value in enumerate(output)]
    else:
        return {}
    found = {}
    for name, value in entries:
        found |= {f"{name}.{inner}" if inner else name: tensor for inner, tensor in named_tensors(value).items()}
    return found


def main_name(tensors: Mapping[str, Tensor]) -> str | None:
    """The output that the network is there for: the one with such a name, else the first; None where there is none."""
    return next((name for name in MAIN if name in tensors), next(iter(tensors), None))


def main_output(output: Any) -> Any:
    """The tensor among a network's outputs that it is there for; what it gave, where there is none."""
    tensors = named_tensors(output)
    name = main_name(tensors)
    return output if name is None else tensors[name]


class MainOutput:
    """A forward hook that makes a network answer with its main output alone, a tensor."""

    def __call__(self, _module: nn.Module, _arguments: Any, output: Any) -> Any:
        return main_output(output)


def answer_with_main_output(network: nn.Module) -> None:
    """Makes a network that answers with a tuple or an object answer with its logits from now on, in place; copies do so too."""
    network.register_forward_hook(MainOutput())
