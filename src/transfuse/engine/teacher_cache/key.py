"""What decides a teacher's answers, as one hash: a cache under it can't be stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PROBES = 4  # fixed inputs on which the teacher is asked, in case its state dict doesn't tell all


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def hash_teacher(module: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Hash of a network: class, state, and outputs on fixed probe inputs (rounded, so that two machines agree)."""
    probe = torch.linspace(-1, 1, PROBES * int(torch.tensor(input_shape).prod())).reshape(PROBES, *input_shape)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    was_training = module.training
    outputs = module.eval()(probe.to(device)).float().cpu()
    module.train(was_training)
    scale = outputs.abs().max().clamp(min=1e-12)
    rounded = (outputs / scale * 1000).round().to(torch.int32)  # 3 digits: enough to tell networks apart
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    digest.update(hash_tensors(dict(module.state_dict())).encode())
    digest.update(rounded.numpy().tobytes())
    return digest.hexdigest()


def combine(parts: Mapping[str, Any]) -> str:
    """One short hash of named plain values; their order makes no difference."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True, default=str).encode()).hexdigest()[:32]
