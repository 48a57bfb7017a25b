"""Several processes, one model: launched by torchrun, joined by DistributedDataParallel."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from transfuse.core import ranks
from transfuse.errors import TransfuseError

_OWN = "uses each rank's own statistics: the result depends on the number of processes"
_PLAIN = "class_without_ranks"  # the attribute of a synchronised layer that remembers what it was
PATIENCE = timedelta(days=30)  # for a process that works alone; torch's own limits, minutes, are for steps that all take together
_PATIENT: ContextVar[dist.ProcessGroup | None] = ContextVar("patient", default=None)


def own_device() -> torch.device:
    """This process's GPU, or the CPU where there is none.

    Raises:
        TransfuseError: there are GPUs, but fewer than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if place >= count:
        fix = f"start at most {count} here, or none of them with a GPU: CUDA_VISIBLE_DEVICES="
        raise TransfuseError(
            f"process {place + 1} of this machine has no GPU of its own, since there are {count}", where="torchrun", fix=fix
        )
    return torch.device("cuda", place)


def start() -> torch.device:
    """Joins the process group that torchrun announces (if it does) and returns this process's device."""
    # a workspace of one size, or cuBLAS may split a product anew; it is read with the first product of the process
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized() and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        group = dist.new_group(backend="gloo", timeout=PATIENCE)  # not NCCL, whose kernel would keep a GPU busy with waiting
        assert isinstance(group, dist.ProcessGroup), "every process is in a group of all"
        _PATIENT.set(group)
    return device


def any_rank(flags: list[bool], device: torch.device) -> list[bool]:
    """For each flag (an interrupt, say) whether any process raises it, agreed by all, without a wait for their GPUs."""
    if not ranks.active():
        return flags
    group = _PATIENT.get()
    counts = torch.tensor(flags, dtype=torch.int32, device="cpu" if group is not None else device)
    dist.all_reduce(counts, group=group)
    return [count > 0 for count in counts.tolist()]


def wait_for_all() -> None:
    """A barrier for what one process does alone, or all in unlike shares: it waits as long as that takes."""
    if ranks.active():
        dist.barrier(_PATIENT.get())


def stop() -> None:
    """Leaves the process group, once the first process has written what it alone writes."""
    if ranks.active():
        gc.collect()  # a wrapper in a reference cycle would outlive its group and abort the process at exit
        wait_for_all()
        _PATIENT.set(None)
        dist.destroy_process_group()


def agreed(metrics: dict[str, float]) -> dict[str, float]:
    """The first rank's figures, on all ranks: what is decided from them is then decided alike."""
    if not ranks.active():
        return metrics
    shared = [metrics]
    dist.broadcast_object_list(shared)
    return shared[0]


def batchnorms(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def wrap(module: nn.Module, device: torch.device, unused: bool = False) -> tuple[nn.Module, list[str]]:
    """The module as all ranks call it, and notes. Gradients are averaged over ranks; BatchNorm is synchronised on GPUs.

    On a CPU BatchNorm uses each rank's own batch (there is no synchronised kernel), as other layers with running statistics do
    everywhere; these are averaged after each step by `average_buffers`. `unwrap` takes back what was done to the module itself.

    Args:
        module: what is trained.
        device: of this rank.
        unused: some parameters may get no gradient (a student's last layer, while it learns inner features); finding them costs time.
    """
    if not ranks.active():
        return module, []
    notes = [f"data parallel over {ranks.world_size()} processes ({dist.get_backend()})"]
    if batchnorms(module):
        notes += _synchronised(module) if device.type == "cuda" else [f"BatchNorm {_OWN}"]
    devices = [device.index] if device.type == "cuda" else None
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # the same choice under another name
    if newer:
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False, find_unused_parameters=unused), notes
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=unused), notes


def _synchronised(module: nn.Module) -> list[str]:
    """Makes SyncBatchNorms of a module's BatchNorms, and says of which it does not.

    A layer changes its class and nothing else, so that hooks, layers that stand in two places and whoever holds one stay right. A class
    of somebody's own may compute more than BatchNorm does, which SyncBatchNorm would leave out: it stays as it is.
    """
    kinds: dict[type[nn.Module], type[nn.Module]] = dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), nn.SyncBatchNorm)
    if (timm := sys.modules.get("timm.layers")) is not None:  # who has a layer of timm's has imported it
        kinds[timm.BatchNormAct2d] = timm.SyncBatchNormAct
    plain = [layer for layer in batchnorms(module) if type(layer) in kinds]
    left = sorted(
        {type(layer).__name__ for layer in batchnorms(module) if type(layer) not in kinds and not isinstance(layer, nn.SyncBatchNorm)}
    )
    for layer in plain:
        kind = type(layer)
        vars(layer).update({_PLAIN: kind, "process_group": None})  # what SyncBatchNorm's own __init__ would add
        layer.__class__ = kinds[kind]
    notes = ["BatchNorm statistics are taken over all ranks (SyncBatchNorm)"] if plain else []
    if left:
        notes.append(f"{', '.join(left)}: not synchronised, since SyncBatchNorm would leave out what it adds to BatchNorm; it {_OWN}")
    return notes


def unwrap(module: nn.Module) -> None:
    """Gives each layer that `wrap` synchronised the class that it had; weights and statistics stay what they became."""
    for layer in module.modules():
        if (kind := vars(layer).pop(_PLAIN, None)) is not None:
            del vars(layer)["process_group"]
            layer.__class__ = kind


def without_sync(module: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Lets ranks exchange gradients only with a step's last micro-batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Makes running statistics equal on all ranks: their mean. SyncBatchNorm has made its own so already."""
    if not ranks.active():  # looked at first: the layers of a large network take longer to walk through than a small step
        return
    synchronised = {
        id(buffer) for layer in module.modules() if isinstance(layer, nn.SyncBatchNorm) for buffer in layer.buffers(recurse=False)
    }
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point() and id(buffer) not in synchronised]
    if not buffers:
        return
    together = torch.cat([buffer.reshape(-1).double() for buffer in buffers])  # in fp32 the mean of equal constants may be another number
    dist.all_reduce(together)
    together /= ranks.world_size()
    for buffer, mean in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
