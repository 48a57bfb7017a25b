"""What decides a teacher's answers, as one hash: a cache under it can't be stale."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_EXACT = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64)
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
    """Hash of a network: class, state, and outputs on fixed probe inputs.

    Outputs are rounded, and computed on the CPU in fp32 wherever the network runs, so that machines agree: a GPU's TF32 would move the
    digits that count, and a second student on another device would ask everything again.
    """
    probe = torch.linspace(-1, 1, PROBES * int(torch.tensor(input_shape).prod())).reshape(PROBES, *input_shape)
    probed = module if _plain(module) else _on_cpu(module)
    was_training = probed.training
    outputs = probed.eval()(probe).float()
    probed.train(was_training)
    scale = outputs.abs().max().clamp(min=1e-12)
    rounded = (outputs / scale * 1000).round().to(torch.int32)  # 3 digits: enough to tell networks apart
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    digest.update(hash_tensors(dict(module.state_dict())).encode())
    digest.update(rounded.numpy().tobytes())
    return digest.hexdigest()


def _plain(module: nn.Module) -> bool:
    """Whether a network lies on the CPU with no floats other than fp32."""
    tensors = [*module.parameters(), *module.buffers()]
    return all(tensor.device.type == "cpu" and tensor.dtype in (torch.float32, *_EXACT) for tensor in tensors)


def _on_cpu(module: nn.Module) -> nn.Module:
    """A copy on the CPU in fp32. Each tensor is copied straight there: a GPU may not have the memory for the network twice."""
    copies: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        there = tensor.detach().to("cpu", copy=True)
        copies[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
    return copy.deepcopy(module, copies).cpu().float()  # what deepcopy finds in its memo it takes from there


def combine(parts: Mapping[str, Any]) -> str:
    """One short hash of named plain values; their order makes no difference."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True, default=str).encode()).hexdigest()[:32]
