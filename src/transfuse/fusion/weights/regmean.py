"""RegMean: each linear layer becomes the one whose outputs are closest to those of all the sources' layers, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.taps import undisturbed, unwrapped
from transfuse.fusion.states import State, average, combined
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import finished, opened

CARD = MergeCard(
    title="Regression mean (RegMean)",
    paper="Jin, Ren, Preotiuc-Pietro, Cheng, 2023, ICLR",
    link="https://arxiv.org/abs/2212.09849",
    needs=("same_shapes", "shared_origin", "inputs"),
    cost="a forward pass of the calibration samples per source; per linear layer and convolution a square matrix of its inputs' width",
)


def regmean(
    states: Sequence[State], grams: Sequence[Mapping[str, Tensor]], off_diagonal: float = 0.9, base: State | None = None
) -> dict[str, Tensor]:
    """W = (sum_i W_i G_i) (sum_i G_i)^-1 for a weight [out, in], G_i = X_i^T X_i of what the layer is given in network i.

    Entries of G off its diagonal are multiplied by `off_diagonal`, 0.9 as in the paper; 1 is the exact least-squares solution, 0 a mean
    weighted by each input's energy. Everything else, biases too, is the plain mean; so are weights on inputs that are never active, on
    which the formula says nothing.

    Args:
        states: of networks trained from the same weights.
        grams: `input_products` of each: weight name -> [in, in].
        off_diagonal: factor of the entries off the diagonal.
        base: not looked at.

    Raises:
        ModelError: names or shapes differ.
    """

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        if any(name not in known for known in grams):
            return average(tensors)
        return _least_squares(tensors, [_damped(known[name].double(), off_diagonal) for known in grams])

    return combined(states, rule)


def _damped(gram: Tensor, off_diagonal: float) -> Tensor:
    diagonal = torch.diag(gram.diagonal())
    return off_diagonal * (gram - diagonal) + diagonal


def _least_squares(weights: list[Tensor], grams: list[Tensor]) -> Tensor:
    """Around the plain mean, so that directions that no input has keep it."""
    flat = [weight.flatten(1) for weight in weights]
    centre = torch.stack(flat).mean(0)
    wanted = torch.stack([(weight - centre) @ gram for weight, gram in zip(flat, grams, strict=True)]).sum(0)
    total = torch.stack(grams).sum(0)
    return (centre + wanted @ torch.linalg.pinv(total, hermitian=True)).view_as(weights[0])


def input_products(network: nn.Module, inputs: Iterable[Tensor]) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """Weight name -> X^T X of what the layer is given: rows are samples and positions; a convolution's rows are its patches.

    Linear layers are the paper's; convolutions without groups are linear in their patches. A layer that runs several times adds up.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks, undisturbed(network):
        for path, layer in network.named_modules():
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"):

                def note(module: nn.Module, given: tuple[Tensor, ...], path: str = path) -> None:
                    rows = _rows(module, given[0]).double()
                    name = f"{path}.weight" if path else "weight"
                    found[name] = found.get(name, torch.zeros((), dtype=torch.float64)) + rows.T @ rows

                hooks.callback(layer.register_forward_pre_hook(note).remove)
        for batch in inputs:
            network(batch)
    return found


def _rows(layer: nn.Module, given: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return given.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    padding = layer.padding
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        given = F.pad(given, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        padding = (0, 0)
    kernel, dilation, stride = (tuple(one) for one in (layer.kernel_size, layer.dilation, layer.stride))
    return F.unfold(given, kernel, dilation, tuple(padding), stride).transpose(1, 2).flatten(0, 1)


class Regmean:
    """Linear layers by least squares on what they are given, everything else averaged.

    Args:
        samples: how many calibration samples; the paper's gains level off at some hundred.
        off_diagonal: factor of the products of different inputs.
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(
        self,
        samples: Annotated[int, Ge(1)] = 256,
        off_diagonal: Annotated[float, Ge(0), Le(1)] = 0.9,
        repair: Repair = "auto",
        check_origin: bool = True,
    ):
        self.samples, self.off_diagonal = samples, off_diagonal
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        grams = [input_products(unwrapped(source.module), opening.inputs(self.samples)) for source in sources]
        return finished(opening, regmean(opening.states, grams, self.off_diagonal), self.repair)
