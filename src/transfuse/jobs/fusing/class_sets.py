"""Sources that each know some of the data's classes, brought into one order of all classes; and what their class sets have to do with
each other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from transfuse import models
from transfuse.core import seeds
from transfuse.core.numerics import UNKNOWN
from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataSet, Model, ModelRequest
from transfuse.errors import ModelError, RecipeError
from transfuse.jobs.context import Context
from transfuse.jobs.fusing.sources import preview_of, refuse_other_task, those_there
from transfuse.jobs.parts.networks import count_outputs, example, preprocess_of, request_for
from transfuse.models.classes import Around
from transfuse.recipe.blocks import ModelBlock
from transfuse.recipe.fuse import FuseRecipe


class InUnion(Around):
    """A network whose outputs stand in the places of their classes among all classes; it says `UNKNOWN` about the others.

    Args:
        network: logits of its own classes, [batch, n].
        outputs: which of the n are used.
        places: the class of each of these.
        classes: how many classes there are.
    """

    outputs: Tensor
    places: Tensor

    def __init__(self, network: nn.Module, outputs: Sequence[int], places: Sequence[int], classes: int):
        super().__init__(network)
        self.classes = classes
        self.register_buffer("outputs", torch.tensor(outputs, dtype=torch.int64))
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        return in_union(self.network(inputs), self.outputs, self.places, self.classes)


def in_union(logits: Tensor, outputs: Tensor, places: Tensor, classes: int) -> Tensor:
    """[n, classes] with the chosen logits in their places."""
    known = logits[:, outputs].float().clamp(min=UNKNOWN / 2)
    return torch.full((len(logits), classes), UNKNOWN, device=logits.device).index_copy(1, places, known)


@dataclass
class Known:
    """One source in the order of all classes.

    Attributes:
        model: outputs for all classes; `UNKNOWN` for those that it doesn't know.
        places: the classes that it knows, in ascending order.
    """

    model: Model
    places: list[int]


def open_known(recipe: FuseRecipe, data: DataSet, context: Context) -> dict[str, Known]:
    """Opens every source and puts its outputs in their places.

    Raises:
        ModelError: a source whose file is missing, that is not trained, was made for another task, names no classes, whose classes
            contradict the data's, or that says NaN or always the same; says which.
        RecipeError: the data are not for classification.
    """
    if data.task != "classification":
        raise RecipeError(f"class sets can be joined for classification, and the task is {data.task}", "how", "use how=distill")
    found = {}
    for name, block in those_there(recipe, context).items():
        try:
            found[name] = _open(name, block, data, recipe.seed, context.live.teachers.get(name))
        except ModelError as error:
            where = f"sources.{name}"
            raise ModelError(error.what, where if error.where is None else f"{where} ({error.where})", error.fix) from error
        network = found[name].model.module
        if isinstance(network, InUnion):  # a table may be silent about some samples; the classes that it doesn't know drown the others
            preview_of(name, replace(found[name].model, module=network.network), data)
        for note in found[name].model.notes:
            context.say(f"source '{name}': {note}")
    return found


def _open(name: str, block: ModelBlock, data: DataSet, seed: int, live: nn.Module | None) -> Known:
    if live is not None:
        model = models.open_model(copy.deepcopy(live), ModelRequest())
    else:
        model = models.open_model(block.source, request_for(block, data, seeds.derive(seed, "init", name), fresh=False))
    if model.module is not None and not model.pretrained:
        raise ModelError(f"{model.source} has no trained weights: it knows nothing to teach", fix="give a source with weights: file:, run:")
    model.preprocess = preprocess_of(block, model, data)
    refuse_other_task(block, model, data)
    outputs, classes = chosen_outputs(block, model, data, _width(model, data))
    places = [data.classes.index(name) for name in classes]
    if model.table is not None:
        ids, logits = model.table
        said = in_union(logits, torch.tensor(outputs), torch.tensor(places), len(data.classes))
        return Known(replace(model, table=(ids, said), classes=list(data.classes)), sorted(places))
    network = InUnion(model.network, outputs, places, len(data.classes)).eval()
    return Known(replace(model, module=network, classes=list(data.classes)), sorted(places))


def _width(model: Model, data: DataSet) -> int:
    try:
        return count_outputs(model, data)
    except (RuntimeError, ValueError, TypeError) as error:
        what = f"{model.source} can't take inputs of shape {tuple(example(model, data).shape)}: {str(error).splitlines()[0]}"
        raise ModelError(what, fix="set its preprocess (size, channels)") from error


def chosen_outputs(block: ModelBlock, model: Model, data: DataSet, width: int) -> tuple[list[int], list[str]]:
    """Which outputs of a source are used, and the class of each, by the recipe's `classes`, else by the model's own names.

    Raises:
        ModelError: it names no classes, not as many as it has outputs, one twice, or one that the data don't have.
    """
    if isinstance(block.classes, dict):
        for name, number in block.classes.items():
            if not 0 <= number < width:
                raise ModelError(f"classes: '{name}' is output {number}, the model has {width} (0 to {width - 1})")
        outputs, classes = list(block.classes.values()), list(block.classes)
    else:
        named = block.classes if block.classes is not None else model.classes
        if named is None:
            fix = f"name them in order: classes: [{', '.join(data.classes[:2])}, ...]"
            raise ModelError(f"{model.source} doesn't say which classes its {width} outputs are", fix=fix)
        if len(named) != width:
            raise ModelError(f"classes names {len(named)} outputs, the model has {width}", fix="name every output, in order")
        outputs, classes = list(range(width)), list(named)
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice or len(set(outputs)) < len(outputs):
        what = f"names '{twice[0]}' twice" if twice else "gives one output to two classes"
        raise ModelError(f"classes {what}")
    stray = [name for name in classes if name not in data.classes]
    if stray:
        what = f"its classes contradict the data's: it knows {_listed(classes)}, and the data have no {_listed(stray)}"
        near = did_you_mean(stray[0], data.classes)
        fix = f"the data have {_listed(data.classes)}{near}; say which output is which of them: classes: {{name: output number, ...}}"
        raise ModelError(what, fix=fix)
    return outputs, classes


def refuse_gaps(sources: Mapping[str, Known], data: DataSet) -> None:
    """
    Raises:
        RecipeError: the data have a class that no source knows.
    """
    known = {place for source in sources.values() for place in source.places}
    missing = [name for place, name in enumerate(data.classes) if place not in known]
    if missing:
        sets = "; ".join(f"{name}: {_listed([data.classes[place] for place in source.places])}" for name, source in sources.items())
        what = f"no source knows {_listed(missing)} ({sets})"
        raise RecipeError(what, "sources", "add a source that knows them, or leave samples of these classes out of the data")


def overlaps(sources: Mapping[str, Known]) -> list[str]:
    """What the sources' class sets have to do with each other, in sentences."""
    sets = {name: set(source.places) for name, source in sources.items()}
    everything = set().union(*sets.values())
    if all(own == everything for own in sets.values()):
        return ["all sources know all classes, so there is nothing to join: how=distill learns from them as well"]
    groups = [{name} for name in sets]
    for one, other in combinations(sets, 2):
        if sets[one] & sets[other]:
            merged = next(group for group in groups if one in group) | next(group for group in groups if other in group)
            groups = [group for group in groups if not group & merged] + [merged]
    if len(groups) == 1:
        return ["class sets overlap, and what sources say about shared classes settles how probable each set is"]
    apart = " | ".join(", ".join(sorted(group)) for group in groups)
    return [f"some sources share no class ({apart}), so how probable each set is rests on the energy of their logits alone"]


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
