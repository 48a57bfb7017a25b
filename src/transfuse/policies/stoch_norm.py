"""StochNorm: full fine-tuning in which each BatchNorm channel is normalised by the pretrained or by the batch's statistics, by chance."""

from collections.abc import Collection, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from transfuse.core.devices import sent
from transfuse.core.policy import Group, Phase, Rate, always
from transfuse.errors import RecipeError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def stochastic_norm(inputs: Tensor, moving: Tensor, batch: Tensor, chosen: Tensor) -> Tensor:
    """s * moving + (1 - s) * batch per channel, both normalised inputs [batch, channels, ...]; s in {0, 1} is `chosen` [channels]."""
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    return torch.where(chosen.view(shape) > 0, moving, batch)


class _Stochastic(nn.Module):
    """Stands in a BatchNorm's place with the same parameters and buffers, so that weights keep their names."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, probability: float):
        super().__init__()
        self.norm = (norm,)  # a tuple: not registered, so that no name changes
        self.probability = probability
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    def forward(self, inputs: Tensor) -> Tensor:
        norm, mean, variance = self.norm[0], self.get_buffer("running_mean"), self.get_buffer("running_var")
        weight, bias = self._parameters.get("weight"), self._parameters.get("bias")
        # copied: the batch's statistics are added to the running ones below, and autograd forbids changing what it saved
        moving = F.batch_norm(inputs, mean.clone(), variance.clone(), weight, bias, False, 0.0, norm.eps)
        if not self.training:
            return moving
        if "num_batches_tracked" in self._buffers:
            self.get_buffer("num_batches_tracked").add_(1)
        batch = F.batch_norm(inputs, mean, variance, weight, bias, True, norm.momentum if norm.momentum is not None else 0.1, norm.eps)
        chosen = sent(torch.rand(inputs.shape[1]) < self.probability, inputs.device)
        return stochastic_norm(inputs, moving, batch, chosen)


class StochNorm:
    """All layers learn, and BatchNorm draws its statistics (Kou et al., 2020, NeurIPS).

    In training, each channel of each layer is normalised by the moving statistics with the given probability and else by the batch's; in
    use it is a plain BatchNorm, which is what is shipped. Draws come from the step's seed, so a resumed run repeats them.
    https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html

    Args:
        probability: of the moving statistics.
        backbone: multiplier of the learning rate of all but the head.
    """

    def __init__(self, probability: Annotated[float, Ge(0), Le(1)] = 0.5, backbone: float = 1.0):
        self.probability, self.backbone = probability, backbone

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        rates = [Rate(group.name, group.parameters, always(self.backbone)) for group in groups[:-1]]
        return [Phase("", 1.0, (*rates, Rate(groups[-1].name, groups[-1].parameters, always(1.0))))]

    def dress(self, network: nn.Module, head: Collection[nn.Parameter], seed: int) -> None:
        """Puts the stochastic form in the place of every BatchNorm that keeps statistics.

        Raises:
            RecipeError: the network has none.
        """
        found = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, _NORMS) and layer.running_mean is not None]
        if not found or not found[0][0]:
            fix = "choose another policy, such as full"
            raise RecipeError(f"{type(network).__name__} has no BatchNorm with moving statistics", where="policy.stoch_norm", fix=fix)
        for path, layer in found:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, _Stochastic(layer, self.probability))

    def undress(self, network: nn.Module) -> None:
        """Plain BatchNorm again, with the statistics that were gathered."""
        dressed = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, _Stochastic)]
        for path, layer in dressed:
            parent, _, name = path.rpartition(".")
            plain = layer.norm[0]
            plain.load_state_dict(layer.state_dict())
            setattr(network.get_submodule(parent), name, plain.train(layer.training))
