"""Tensors by parameter name, kept as buffers of an objective, so that a resumed run has those that the first one began with."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def keep(objective: nn.Module, prefix: str, values: Mapping[str, Tensor]) -> None:
    """Registers copies; an earlier one of the same name is replaced."""
    for name, value in values.items():
        if hasattr(objective, _buffer(prefix, name)):
            delattr(objective, _buffer(prefix, name))
        objective.register_buffer(_buffer(prefix, name), value.detach().clone())


def forget(objective: nn.Module, prefix: str, names: Iterable[str]) -> None:
    """Takes copies away."""
    for name in names:
        delattr(objective, _buffer(prefix, name))


def kept(objective: nn.Module, prefix: str, names: Iterable[str]) -> dict[str, Tensor]:
    """The copies by parameter name."""
    return {name: objective.get_buffer(_buffer(prefix, name)) for name in names}


def _buffer(prefix: str, name: str) -> str:
    return f"{prefix}/{name.replace('.', '/')}"  # a buffer's name may hold no dot
