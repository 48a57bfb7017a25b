"""Where the training of a fused head begins: at what the sources' own last layers say together, or at random."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from transfuse.core.fused import FusedHead
from transfuse.core.heads import read_ending
from transfuse.core.types import DataSet, Model
from transfuse.errors import ModelError
from transfuse.jobs.parts.networks import device_of, example
from transfuse.recipe.fused_features import FeaturesBlock

Heads = dict[str, tuple[Tensor, Tensor]]


def heads_of(sources: Mapping[str, Model], data: DataSet) -> Heads:
    """The layer that makes each source's outputs in the data's order and scaling, (weight, bias), on the features in front of it.

    Raises:
        ModelError: a source has no such layer, or its outputs are not those of the data; names it.
    """
    found = {}
    for name, model in sources.items():
        if model.module is None:
            raise ModelError(f"{model.source} is a table of predictions and has no last layer", f"sources.{name}")
        try:
            ending = read_ending(model.network, example(model, data).to(device_of(model.network)))
        except ModelError as error:
            raise ModelError(error.what, f"sources.{name}", error.fix) from error
        if len(ending.bias) != data.outputs:
            what = f"{model.source} ends in a layer of {len(ending.bias)} outputs, and the data have {data.outputs}"
            raise ModelError(what, f"sources.{name}", "say which output is which class: classes: {name: output number, ...}")
        found[name] = ending.weight.cpu(), ending.bias.cpu()
    return found


def settled_start(settings: FeaturesBlock, sources: Mapping[str, Model], data: DataSet) -> tuple[FeaturesBlock, str]:
    """The block without `start: auto`, and why it became what it is.

    Raises:
        ModelError: the recipe wants the sources' own heads, and a source has none that can be used.
    """
    if settings.start == "random":
        return settings, ""
    try:
        heads_of(sources, data)
    except ModelError as error:
        if settings.start == "sources":
            raise ModelError(error.what, f"features.start ({error.where})", "set features.start=random") from error
        return settings.model_copy(update={"start": "random"}), f"{error.where}: {error.what}"
    return settings.model_copy(update={"start": "sources"}), "every source ends in a linear layer over the data's outputs"


def begin(top: FusedHead, heads: Heads, names: tuple[str, ...]) -> bool:
    """Starts a head on some of the sources' features at the mean of their own; False where there are none, or the rule can't hold them."""
    return all(name in heads for name in names) and top.begin([heads[name] for name in names])
