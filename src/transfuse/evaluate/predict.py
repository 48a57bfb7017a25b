"""A model's outputs on a split, along its exact evaluation path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Samples, Target
from transfuse.errors import ModelError


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards each submodule is back in its own mode (a frozen BatchNorm stays in eval)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def predict(
    module: nn.Module,
    samples: Samples,
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Outputs for every sample, in order: float32 [n, outputs] on the CPU.

    The module has to be on `device` already. Inputs go through `samples.exact`: resize and crop as the model was trained with, no
    augmentation. On a GPU that runs out of memory the batch is halved until it fits.

    Args:
        module: the model; its training mode is restored afterwards.
        samples: the split.
        preprocess: how raw inputs become this model's.
        device: where the module is.
        batch_size: samples per forward pass; doesn't change the result.
        progress: called with (done, total) after every batch.

    Raises:
        ModelError: the module doesn't return one row of numbers per sample.
    """
    parts: list[Tensor] = []
    done = 0
    with evaluation_mode(module), torch.inference_mode():
        while done < len(samples):
            indices = torch.arange(done, min(done + batch_size, len(samples)))
            try:
                outputs = module(samples.exact(indices, preprocess).to(device))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                continue
            parts.append(_rows(outputs, len(indices)))
            done += len(indices)
            if progress is not None:
                progress(done, len(samples))
    return torch.cat(parts) if parts else torch.empty(0, 0)


def _rows(outputs: object, count: int) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise ModelError(f"the model returns {type(outputs).__name__}, not a tensor of logits", fix="wrap it in a module that does")
    if outputs.ndim == 1 and len(outputs) == count:
        outputs = outputs[:, None]
    if outputs.ndim != 2 or len(outputs) != count:
        raise ModelError(f"the model returns shape {tuple(outputs.shape)} for {count} samples; expected ({count}, outputs)")
    return outputs.float().cpu()


def original_units(outputs: Tensor, target: Target) -> Tensor:
    """What a regression model predicts, (y - mean) / std per target, back in the units of y: [n, targets]."""
    return outputs * outputs.new_tensor(target.std) + outputs.new_tensor(target.mean)
