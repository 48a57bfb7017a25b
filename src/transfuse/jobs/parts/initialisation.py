"""Begins a student with another network's weights, as its block's `init` says, and tells what came from where."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.core import ranks, seeds
from transfuse.core.grafts import graft
from transfuse.core.last_layers import find_heads
from transfuse.core.types import DataSet, Model, Samples
from transfuse.engine.loader import is_labelled
from transfuse.errors import ModelError, RecipeError, TransfuseError
from transfuse.fusion.alignment.tracing import Probe, collect, trace
from transfuse.jobs.context import Context
from transfuse.jobs.parts.learner import open_source
from transfuse.jobs.parts.networks import BinaryHead, device_of
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.rundir import write_json
from transfuse.models.classes import Rescaled, SelectedOutputs
from transfuse.models.heads.placing import plain_layer
from transfuse.policies import init
from transfuse.policies.init._scene import SAMPLES, Groups, Moments, Moved, Scene
from transfuse.recipe.blocks import LearnerBlock

BATCH = 256
FILE = "initialisation.json"


def initialise(
    context: Context,
    block: LearnerBlock,
    data: DataSet,
    student: Model,
    seed: int,
    teachers: Mapping[str, Model] | None = None,
    where: str = "student",
) -> Moved | None:
    """Puts another network's weights into an opened student, in place; None where its block has no `init`.

    Args:
        context: told the table of what matched; a run folder that is there keeps all of it.
        block: the student's.
        data: whose training samples measure scales and statistics.
        student: with fresh weights.
        seed: the run's.
        teachers: opened ones, which `init.source` may name.
        where: the recipe's key of the block.

    Raises:
        RecipeError: the block names no source.
        ModelError: the source can't be opened, or too little of it fits; with the table.
    """
    if block.init is None:
        return None
    name, settings = next(iter(block.init.items()))
    key = f"{where}.init.{name}"
    source = source_of(settings["source"], data, teachers or {}, key)
    policy = init.get(name)(**{setting: value for setting, value in settings.items() if setting not in ("source", "least")})
    network = bare(source, data)
    try:
        moved = policy(network, student.network.eval(), _scene(data, (network, source), student, seeds.derive(seed, "initialisation")))
    except TransfuseError as error:
        raise type(error)(error.what, error.where or key, error.fix) from error
    if moved.share < settings["least"] or not moved.numbers[1]:
        what = f"too little of {source.source} fits {student.source}: {moved.summary()}\n{moved.table()}"
        fix = f"give a source of the same architecture, another init, or {key}.least=0 to go on with what fits"
        raise ModelError(what, where=key, fix=fix)
    student.pretrained = True
    if source.classes and data.classes and source.classes != data.classes and len(source.classes) == len(data.classes):
        moved.notes.append(f"the source's last layer was made for other classes ({', '.join(source.classes[:3])}, ...)")
    lines = [f"{where}: begins with weights of {source.source} ({name}): {moved.summary()}", *moved.notes]
    context.say("; ".join(lines) + f"\n{moved.table()}")
    if ranks.rank() == 0 and context.rundir.path.is_dir():
        write_json(context.rundir.path / FILE, {"source": source.source, "how": name, **moved.as_dict()})
    return moved


def source_of(value: str | dict[str, Any] | None, data: DataSet, teachers: Mapping[str, Model], key: str) -> Model:
    """The network whose weights are taken.

    Raises:
        RecipeError: it isn't named, or names no network.
        ModelError: it can't be opened.
    """
    if value is None and len(teachers) == 1:
        value = next(iter(teachers))
    if value is None:
        known = f"a teacher's name ({', '.join(teachers)}) or a model: run:PATH" if teachers else "a model: run:PATH, file:PATH"
        raise RecipeError("whose weights?", where=f"{key}.source", fix=f"name {known}")
    model = teachers[value] if isinstance(value, str) and value in teachers else open_source(value, data, f"{key}.source")
    if model.module is None:
        raise ModelError(f"{model.source} is a table of predictions and has no weights", where=f"{key}.source", fix="name a network")
    return model


def bare(source: Model, data: DataSet) -> nn.Module:
    """The source's own network on the CPU, in eval mode, without what a job puts around it.

    A choice and order of outputs, and another scaling of targets, become part of its last layer, so that its rows mean what the data mean.
    """
    network, around = source.network, []
    while isinstance(network, (SelectedOutputs, Rescaled, BinaryHead)):
        around.append(network)
        network = network.network
    if device_of(network).type != "cpu" or around:
        network = copy.deepcopy(network).to("cpu")
    network.eval()
    folded = [wrapper for wrapper in reversed(around) if not isinstance(wrapper, BinaryHead)]
    if folded:
        shown = data.train.exact([0, 1], source.preprocess or data.preprocess)
        head = find_heads(network, shown)[0]
        weight, bias = head.layer.weight.detach(), None if head.layer.bias is None else head.layer.bias.detach()
        for wrapper in folded:
            weight, bias = _folded(wrapper, weight, bias)
        layer = plain_layer(head, len(weight))
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)
        graft(network, head.path, "replace", [layer])
    return network


def _folded(wrapper: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A last layer that does what the wrapper makes of its outputs."""
    if isinstance(wrapper, SelectedOutputs):
        rows = wrapper.outputs.cpu()
        return weight[rows], None if bias is None else bias[rows]
    assert isinstance(wrapper, Rescaled)
    factor, shift = wrapper.factor.cpu().reshape(-1), wrapper.shift.cpu().reshape(-1)
    rescaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return rescaled, None if bias is None else bias * factor + shift


def _scene(data: DataSet, opened: tuple[nn.Module, Model], student: Model, seed: int) -> Scene:
    network, source = opened
    train = standardised(data.train, data)
    labelled = is_labelled(train.labels).nonzero()[:, 0]
    order = labelled[torch.randperm(len(labelled), generator=seeds.generator(seed, "samples"))]
    given, own = source.preprocess or data.preprocess, student.preprocess or data.preprocess

    def batches(samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in order[:samples].split(BATCH):
            yield train.exact(rows, given), train.exact(rows, own), _label_rows(train, rows, data)

    def groups(asked: nn.Module) -> Groups:
        shown = next(batches(2))
        return trace(asked, shown[0] if asked is network else shown[1]).groups

    def moments(asked: nn.Module) -> Moments:
        return moments_of(asked, [shown[0] if asked is network else shown[1] for shown in batches(SAMPLES)])

    return Scene(batches, groups, moments, seed)


def _label_rows(train: Samples, rows: Tensor, data: DataSet) -> Tensor:
    labels = train.labels[rows]
    return F.one_hot(labels, len(data.classes)).float() if data.task == "classification" else labels.float()


def moments_of(network: nn.Module, inputs: list[Tensor]) -> Moments:
    """Mean and second moment of each group's units, as the layers behind it are given them."""
    specification = trace(network, inputs[0][:2])
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def take(group: str, _probe: Probe, values: Tensor) -> None:
        rows = values.double()
        mean, square, count = sums.get(group, (torch.zeros(rows.shape[1]).double(), torch.zeros(rows.shape[1], rows.shape[1]).double(), 0))
        sums[group] = (mean + rows.sum(0), square + rows.T @ rows, count + len(rows))

    for batch in inputs:
        collect(network, batch, specification, take)
    return {group: (mean / count, square / count) for group, (mean, square, count) in sums.items()}
