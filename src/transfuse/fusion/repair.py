"""Puts a merged network's activations back to the scale that its layers were trained for.

Averaging weights of networks whose units differ makes activations smaller layer by layer; statistics that normalisation layers remember
belong to neither network. Jordan et al., 2023, ICLR (https://arxiv.org/abs/2211.08403).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.taps import undisturbed
from transfuse.fusion.states import average

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
Joined = Callable[[str, Sequence[Tensor]], Tensor]  # a layer, a figure of its channels in each parent -> that of the merged layer


class Moments:
    """Mean and variance per channel of what came so far."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """rows: [samples and positions, channels]."""
        self.count += len(rows)
        self.sum = self.sum + rows.double().sum(0)
        self.squares = self.squares + rows.double().square().sum(0)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def batch_norms(module: nn.Module) -> list[Any]:
    """Its normalisation layers with running statistics."""
    return [layer for layer in module.modules() if isinstance(layer, BATCH_NORMS) and layer.track_running_stats]


def reset_statistics(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Estimates BatchNorm's means and variances anew on inputs, in place; nothing else is in training mode. Returns how many layers.

    The mean over batches of each batch's statistics, as `torch.optim.swa_utils.update_bn` does it; a batch of one sample is left out.

    Raises:
        ValueError: there are normalisation layers and no batch of two samples.
    """
    layers = batch_norms(module)
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    seen = 0
    with undisturbed(module):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
            layer.train()
        for batch in inputs:
            if len(batch) > 1:
                module(batch)
                seen += 1
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    if not seen:
        raise ValueError("statistics need at least one batch of two samples")
    return len(layers)


def unnormalised_layers(module: nn.Module, example: Tensor) -> list[str]:
    """Linear and convolutional layers before the last one whose outputs no BatchNorm normalises: those that `repair_units` corrects."""
    ran: list[tuple[str, Tensor]] = []
    normalised: list[Tensor] = []
    with ExitStack() as hooks, undisturbed(module):
        for path, layer in module.named_modules():
            if isinstance(layer, LAYERS):

                def note(_module: nn.Module, _given: object, made: Tensor, path: str = path) -> None:
                    ran.append((path, made))

                hooks.callback(layer.register_forward_hook(note).remove)
            elif isinstance(layer, BATCH_NORMS):
                hooks.callback(layer.register_forward_pre_hook(lambda _m, given: normalised.append(given[0])).remove)
        module(example)
    last = ran[-1][0] if ran else ""
    holders = [parameter for layer in module.modules() for parameter in layer._parameters.values()]
    free = [
        path
        for path, made in ran
        if path != last
        and not any(made is given for given in normalised)
        and sum(parameter is module.get_submodule(path).weight for parameter in holders) == 1  # not shared with another layer
    ]
    return list(dict.fromkeys(free))


def channel_rows(layer: nn.Module, made: Tensor) -> Tensor:
    """A layer's output as [samples and positions, channels]."""
    return made.flatten(0, -2) if isinstance(layer, nn.Linear) else made.movedim(1, -1).flatten(0, -2)


def moments(module: nn.Module, paths: Sequence[str], inputs: Iterable[Tensor]) -> dict[str, Moments]:
    """Mean and standard deviation of each layer's output channels over inputs."""
    found = {path: Moments() for path in paths}
    with ExitStack() as hooks, undisturbed(module):
        for path in paths:
            layer = module.get_submodule(path)

            def note(module: nn.Module, _given: object, made: Tensor, path: str = path) -> None:
                found[path].add(channel_rows(module, made))

            hooks.callback(layer.register_forward_hook(note).remove)
        for batch in inputs:
            module(batch)
    return found


def repair_units(
    module: nn.Module,
    parents: Sequence[nn.Module],
    inputs: Callable[[], Iterable[Tensor]],
    weights: Sequence[float] | None = None,
    paths: Sequence[str] | None = None,
    joined: Joined | None = None,
) -> dict[str, float]:
    """REPAIR: rescales and shifts every unit so that its mean and standard deviation are the weighted means of the parents', in place.

    For layer l and channel c over the inputs: std' = sum_i w_i std_i and mean' = sum_i w_i mean_i; weight *= std' / std and
    bias = (bias - mean) std' / std + mean'. Each layer is measured behind the corrected ones before it, in one pass, by the statistics of
    each batch as the paper does it. A layer without biases is rescaled only, since the architecture has no place for a shift (a
    deviation). Layers that BatchNorm follows are left to `reset_statistics`; so are a network's outputs. A unit that never varies stays.

    Args:
        module: the merged network.
        parents: aligned with it, unit by unit, or as `joined` knows them.
        inputs: -> batches of calibration inputs, the same ones each time.
        weights: of the parents in the merge; None: equal.
        paths: layers to correct; None: `unnormalised_layers`.
        joined: what the parents' means, and their standard deviations, become together where units don't correspond one to one; None: their
            weighted mean.

    Returns:
        Layer -> mean over its channels of std before correction over std wanted: how far its variance had collapsed.
    """
    if paths is None:
        paths = unnormalised_layers(module, next(iter(inputs())))
    wanted = _wanted([moments(parent, paths, inputs()) for parent in parents], joined or (lambda _, values: average(values, weights)))
    found = {path: Moments() for path in paths}
    with ExitStack() as hooks, undisturbed(module):
        for path in paths:

            def correct(layer: nn.Module, _given: object, made: Tensor, path: str = path) -> Tensor:
                batch = Moments()
                batch.add(channel_rows(layer, made))
                found[path].add(channel_rows(layer, made))
                scale, shift = _correction(batch, wanted[path], shifts=layer.bias is not None)
                shape = [-1] if isinstance(layer, nn.Linear) else [-1, *[1] * (made.ndim - 2)]
                return made * scale.to(made.dtype).view(shape) + shift.to(made.dtype).view(shape)

            hooks.callback(module.get_submodule(path).register_forward_hook(correct).remove)
        for batch in inputs():
            module(batch)
    ratios = {}
    for path in paths:
        _fold(module.get_submodule(path), *_correction(found[path], wanted[path], shifts=True))
        varying = wanted[path][1] > 0
        ratios[path] = float((found[path].std[varying] / wanted[path][1][varying]).mean()) if varying.any() else 1.0
    return ratios


def _wanted(known: Sequence[Mapping[str, Moments]], joined: Joined) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> mean and standard deviation of each channel, of what is known of the parents."""
    return {path: (joined(path, [one[path].mean for one in known]), joined(path, [one[path].std for one in known])) for path in known[0]}


def _correction(found: Moments, wanted: tuple[Tensor, Tensor], shifts: bool) -> tuple[Tensor, Tensor]:
    mean, std = wanted
    scale = torch.where((found.std > 1e-8) & (std > 0), std / found.std.clamp(min=1e-8), torch.ones_like(std))
    return scale, (mean - scale * found.mean if shifts else torch.zeros_like(mean))


@torch.no_grad()
def _fold(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    weight.mul_(scale.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1)))
    if isinstance(bias, Tensor):
        bias.copy_(bias * scale.to(bias.dtype) + shift.to(bias.dtype))
