"""Several processes, one model: launched by torchrun, joined by DistributedDataParallel."""

from __future__ import annotations

import gc
import inspect
import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from transfuse.core import ranks


def start() -> torch.device:
    """Joins the process group that torchrun announces (if it does) and returns this process's device."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized() and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leaves the process group."""
    if ranks.active():
        gc.collect()  # a wrapper in a reference cycle would outlive its group and abort the process at exit
        ranks.barrier()
        dist.destroy_process_group()


def batchnorms(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def wrap(module: nn.Module, device: torch.device, unused: bool = False) -> tuple[nn.Module, list[str]]:
    """The module as all ranks call it, and notes. Gradients are averaged over ranks; BatchNorm is synchronised on GPUs.

    On a CPU BatchNorm uses each rank's own batch (there is no synchronised kernel); its running statistics are averaged after each
    step by `average_buffers`.

    Args:
        module: what is trained.
        device: of this rank.
        unused: some parameters may get no gradient (a student's last layer, while it learns inner features); finding them costs time.
    """
    if not ranks.active():
        return module, []
    notes = [f"data parallel over {ranks.world_size()} processes ({dist.get_backend()})"]
    if batchnorms(module):
        if device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
            notes.append("BatchNorm statistics are taken over all ranks (SyncBatchNorm)")
        else:
            notes.append("BatchNorm uses each rank's own statistics: the result depends on the number of processes")
    devices = [device.index] if device.type == "cuda" else None
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # the same choice under another name
    if newer:
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False, find_unused_parameters=unused), notes
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=unused), notes


def without_sync(module: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Lets ranks exchange gradients only with a step's last micro-batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Makes running statistics equal on all ranks: their mean. On GPUs SyncBatchNorm has made them so already."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.device.type == "cpu"]
    if not ranks.active() or not buffers:
        return
    together = torch.cat([buffer.reshape(-1).float() for buffer in buffers])
    dist.all_reduce(together)
    together /= ranks.world_size()
    for buffer, mean in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
