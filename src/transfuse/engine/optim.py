"""Optimisers by name. A function's signature is its recipe block."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from transfuse.core.policy import Rate

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Momentum = Annotated[float, Ge(0), Lt(1)]


def adamw(
    parameters: Iterable[dict[str, Any]],
    lr: Positive = 1e-3,
    weight_decay: NotNegative = 0.01,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019).

    Args:
        lr: learning rate at the schedule's peak.
        weight_decay: decoupled decay per step, times lr; not applied to biases and normalisation.
        beta1: decay of the gradient's running mean.
        beta2: decay of its running square.
    """
    return torch.optim.AdamW(list(parameters), lr=lr, weight_decay=weight_decay, betas=(beta1, beta2))


def sgd(
    parameters: Iterable[dict[str, Any]],
    lr: Positive = 0.1,
    momentum: Momentum = 0.9,
    nesterov: bool = True,
    weight_decay: NotNegative = 5e-4,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with Nesterov momentum unless switched off.

    Args:
        lr: learning rate at the schedule's peak.
        momentum: of the running gradient.
        nesterov: look ahead along the momentum; ignored without momentum.
        weight_decay: L2 penalty's factor; not applied to biases and normalisation.
    """
    return torch.optim.SGD(list(parameters), lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}


def parameter_groups(module: nn.Module, rates: Sequence[Rate] = ()) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices and kernels, which decay, and vectors (biases, normalisation), which don't.

    With rates there are two for each rate, and two for what is in none; a group's "rate" is the place of its rate, -1 for none.
    """
    owner = {id(parameter): place for place, rate in enumerate(rates) for parameter in rate.parameters}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for place in (*range(len(rates)), -1):
        own = [parameter for parameter in trainable if owner.get(id(parameter), -1) == place]
        rated = {"rate": place} if rates else {}
        groups.append({"params": [parameter for parameter in own if parameter.ndim > 1], **rated})
        groups.append({"params": [parameter for parameter in own if parameter.ndim <= 1], "weight_decay": 0.0, **rated})
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, name: str, settings: dict[str, Any], rates: Sequence[Rate] = ()) -> torch.optim.Optimizer:
    """The named optimiser over all trainable parameters of a module; on a CPU with torch's fused update where that is safe."""
    optimizer = OPTIMIZERS[name](parameter_groups(module, rates), **settings)
    if _fusible(module):
        for group in optimizer.param_groups:
            group["fused"] = True
    return optimizer


def _fusible(module: nn.Module) -> bool:
    """Whether the fused update of a CPU does what the plain one does, to a rounding: 2 to 6 times as fast (benchmarks/updates.py).

    In torch 2.13 it walks memory from the first number to the last, whatever the strides, takes wrong steps of SGD in half precision, and
    no sparse gradient. CUDA keeps torch's own choice.
    """
    if any(part.sparse for part in module.modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag))):
        return False
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return all(
        parameter.device.type == "cpu" and parameter.dtype in (torch.float32, torch.float64) and _gapless(parameter)
        for parameter in trainable
    )


def _gapless(tensor: Tensor) -> bool:
    """Whether every number between a tensor's first and last in memory is its own, each once."""
    length = 1
    for stride, size in sorted(_order(tensor)):
        if stride != length:
            return False
        length *= size
    return True


def _order(tensor: Tensor) -> list[tuple[int, int]]:
    """Strides and sizes of the dimensions that have a second element: two tensors with the same lie in the same order."""
    return [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def lay_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Bring gradients that lie in another order than their parameter into its order, for the fused update.

    Autograd makes them in the parameter's order; one that somebody assigned may differ.
    """
    for parameter in _fused(optimizer):
        if parameter.grad is not None:
            parameter.grad = _as_it_lies(parameter.grad, parameter)


def lay_state(optimizer: torch.optim.Optimizer) -> None:
    """The same for running means that were read from a file."""
    for parameter in _fused(optimizer):
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = _as_it_lies(value, parameter)


def _fused(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        if group.get("fused"):
            yield from group["params"]


def _as_it_lies(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.stride() == like.stride() or _order(tensor) == _order(like):
        return tensor
    return torch.empty_like(like, memory_format=torch.preserve_format).copy_(tensor)
