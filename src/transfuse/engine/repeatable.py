"""The same bits from the same step on a GPU, whose fastest kernels add in whatever order their threads come."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import cudnn
from torch.utils import deterministic

FILL = "fill_uninitialized_memory"  # of no use here, and it costs time
_UNORDERED = re.compile(
    r"(?P<name>.+?) (does not have a deterministic implementation|defaults to a non-deterministic algorithm)"
    r"|Deterministic behavior was enabled .* uses (?P<library>CuBLAS)"
)


@contextmanager
def repeatable(device: torch.device, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, kernels are taken whose sums have one order; a run that is killed and resumed then ends with the same bits.

    What has no such kernel runs as it is, and `say` is told its name once. On a CPU there is nothing to choose.

    Args:
        device: where the training runs.
        say: told in a sentence what can't be promised.
    """
    if device.type != "cuda":
        yield
        return
    before, repeated = torch.get_deterministic_debug_mode(), torch.is_warn_always_enabled()
    with warnings.catch_warnings(), _set(cudnn, "deterministic", True), _set(cudnn, "benchmark", False), _set(deterministic, FILL, False):
        warnings.filterwarnings("always", message=_UNORDERED.pattern)
        _listen(say)
        torch.set_deterministic_debug_mode(max(before, 1))  # warn, unless somebody wants errors
        torch.set_warn_always(True)  # some say it once per process, and this may be its second training
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)
            torch.set_warn_always(repeated)


@contextmanager
def _set(module: Any, name: str, value: bool) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _listen(say: Callable[[str], None]) -> None:
    """Warnings about such kernels go to `say`, others to where they went; `catch_warnings` takes it back."""
    show, told = warnings.showwarning, set[str]()

    def heard(message, category, filename, lineno, file=None, line=None):  # type: ignore[no-untyped-def]
        found = _UNORDERED.match(str(message))
        if found is None:
            show(message, category, filename, lineno, file, line)
        elif (name := found["name"] or found["library"]) not in told:
            told.add(name)
            say(f"{name} adds in no fixed order on this GPU, so a resumed run may end with other bits than an uninterrupted one")

    warnings.showwarning = heard
