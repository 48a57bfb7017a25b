"""Small networks, made so that nothing in them is symmetric by accident, and what rules on weights are given beside them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.core.types import ModelRequest
from transfuse.fusion.types import Calibration, Parent
from transfuse.models import open_model

CLASSES = 5


def mlp(seed: int = 0, **options: object) -> nn.Module:
    """16 inputs."""
    return stirred(built("mlp", (1, 4, 4), seed, {"widths": [24, 16], **options}), seed)


def built(name: str, shape: tuple[int, ...], seed: int = 0, options: dict | None = None) -> nn.Module:
    return open_model(f"builtin:{name}", ModelRequest(outputs=CLASSES, input_shape=shape, seed=seed, options=options or {})).network


def stirred(network: nn.Module, seed: int, amount: float = 0.3) -> nn.Module:
    """A copy with every weight and statistic changed a little: no unit is like another, no statistic is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                scale = tensor.abs().mean().clamp(min=0.1)
                tensor.add_(amount * scale * torch.randn(tensor.shape, generator=generator)).abs_() if _positive(network, tensor) else (
                    tensor.add_(amount * scale * torch.randn(tensor.shape, generator=generator))
                )
    return network


def _positive(network: nn.Module, tensor: Tensor) -> bool:
    """Variances."""
    return any(name.endswith("running_var") and buffer.data_ptr() == tensor.data_ptr() for name, buffer in network.named_buffers())


def pictures(rows: int = 32, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def calibration(inputs: Tensor, judge=None, labels: Tensor | None = None, batch: int = 16) -> Calibration:
    known = torch.arange(len(inputs)) % CLASSES if labels is None else labels
    return Calibration(
        lambda count: zip(inputs[:count].split(batch), known[:count].split(batch), strict=True),
        lambda outputs, wanted: F.cross_entropy(outputs, wanted, reduction="none"),
        judge,
    )


def parents(*networks: nn.Module) -> list[Parent]:
    return [Parent(chr(ord("a") + number), network) for number, network in enumerate(networks)]


def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        return network(inputs)
