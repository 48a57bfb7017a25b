"""What one forward pass does, operator by operator: multiply-accumulates, what they leave out, and the memory that it takes."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# operators that place, copy or select numbers and compute none; views say so themselves
_NO_ARITHMETIC = {
    *("_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "contiguous", "copy_", "detach", "embedding", "empty"),
    *("empty_like", "expand", "fill_", "flip", "full", "full_like", "gather", "index", "index_select", "lift_fresh", "masked_fill"),
    *("native_dropout", "new_empty", "new_zeros", "ones", "ones_like", "repeat", "roll", "scalar_tensor", "slice_scatter", "stack"),
    *("tril", "triu", "where", "zeros", "zeros_like"),
}


class _Seen(TorchDispatchMode):
    """Counts the operators that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func] += 1
        return func(*args, **(kwargs or {}))


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass."""
    return count_operations(module, example)[0]


def count_operations(module: nn.Module, example: Tensor) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of one forward pass, and operator -> calls of those that compute and are not counted.

    Element-wise operators, views and copies are in neither: they hold no multiply-accumulate.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused transformer and attention kernels hide their matrix products from the counter
    try:
        with _Seen() as seen, FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            module(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    left_out: Counter[str] = Counter()
    for operator, calls in seen.calls.items():
        if operator._overloadpacket not in flop_registry and not _is_free(operator):
            left_out[str(operator._overloadpacket).removeprefix("aten.")] += calls
    return counter.get_total_flops() // 2, dict(sorted(left_out.items()))


def _is_free(operator: Any) -> bool:
    name = str(operator._overloadpacket).partition(".")[2]
    return operator.is_view or torch.Tag.pointwise in operator.tags or name in _NO_ARITHMETIC


class _Living(TorchDispatchMode):
    """Adds up the storages that are alive, from when an operator returns them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        self._held[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self.now += size
        self.most = max(self.most, self.now)

    def _drop(self, key: int, size: int) -> None:
        self.now -= size
        self._held.pop(key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self.hold(value)
        return result


def peak_bytes(module: nn.Module, example: Tensor) -> int:
    """The most bytes of tensors that live at one time in a forward pass: weights, input and what is computed between.

    On a GPU it is what the allocator says, which includes the kernels' own workspace; elsewhere that can't be seen.
    """
    if example.device.type == "cuda":
        torch.cuda.synchronize(example.device)
        torch.cuda.reset_peak_memory_stats(example.device)
        others = torch.cuda.memory_allocated(example.device)
        with torch.no_grad():
            module(example)
        own = sum(tensor.untyped_storage().nbytes() for tensor in [*module.parameters(), *module.buffers(), example])
        return torch.cuda.max_memory_allocated(example.device) - others + own
    with _Living() as living, torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers(), example]:
            living.hold(tensor)
        module(example)
    return living.most
