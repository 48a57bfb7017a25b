"""Fusion of weights within a job: sources as parents, calibration data as the rules want them, and the merged network as a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfuse import models
from transfuse.core import seeds
from transfuse.core.types import DataSet, Model
from transfuse.data import samples as pools
from transfuse.engine.loader import is_labelled
from transfuse.errors import ModelError
from transfuse.evaluate.predict import predict
from transfuse.fusion import weights as weight_rules
from transfuse.fusion.diagnose import diagnose
from transfuse.fusion.outputs import get as output_rule
from transfuse.fusion.types import Calibration, Parent
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import finish
from transfuse.jobs.fusing.features import canonical
from transfuse.jobs.fusing.panel import Panel, Way
from transfuse.jobs.fusing.sources import Source
from transfuse.jobs.parts.networks import request_for
from transfuse.jobs.parts.pools import standardised
from transfuse.models.classes import SelectedOutputs
from transfuse.models.ensemble import Inputs, Member, Rule, ensemble
from transfuse.recipe.fuse import FuseRecipe, WayBlock

BATCH = 256


def try_weights(context: Context, recipe: FuseRecipe, panel: Panel, block: WayBlock) -> Way:
    """A rule on weights: merged on training inputs without a step of training, judged on validation.

    Raises:
        ModelError: the sources can't be merged, and why.
    """
    name = block.name.partition(".")[2]
    card = weight_rules.card(name)
    if panel.data.task not in card.tasks:
        return Way(block.name, why=f"it is defined for {' and '.join(card.tasks)}, and the task is {panel.data.task}")
    members = alike(panel.sources)
    sign = 1.0 if panel.higher else -1.0
    said = panel.outputs(panel.data.val)
    parents = [Parent(member.name, member.model.network, score=sign * panel.value(said[place])) for place, member in enumerate(members)]
    start = base_of(recipe, panel.data, members[0]) if recipe.base is not None else None
    try:
        rule = weight_rules.get(name)(**block.parameters)
    except ValueError as error:
        return Way(block.name, why=str(error))
    calibration = calibration_of(recipe, panel, members[0])
    if "diagnosis" not in panel.opened:
        panel.opened["diagnosis"] = diagnose(parents, calibration, start)
        context.say(f"weights: {panel.opened['diagnosis'].reason}")
        for note in panel.opened["diagnosis"].notes:
            context.say(f"weights: {note}")
    diagnosis = panel.opened["diagnosis"]
    if diagnosis.verdict == "no" and recipe.how != [block]:  # a rule that is asked for alone may try and fail for itself
        return Way(block.name, why=diagnosis.reason.splitlines()[0])  # its table of shapes was shown once
    merged = rule.merge(parents, calibration, start)
    model = as_model(panel, members[0], merged.module)
    way = Way(block.name, finish.asking(model)(panel.data.val), finish.asking(model), model, figures=merged.figures)
    way.notes = list(merged.notes)
    return way


def alike(sources: Mapping[str, Source]) -> list[Member]:
    """All sources as members, if their inputs and outputs mean the same, so that one network can stand for all of them.

    Raises:
        ModelError: a table, other preprocessing, or outputs in another order; names the two.
    """
    members: list[Member] = []
    for name, source in sources.items():
        if source.member is None:
            raise ModelError(f"'{name}' is a table of predictions and has no weights", "how", "fuse outputs instead")
        source.member.model.network.to("cpu")
        members.append(source.member)
    for one, other in combinations(members, 2):
        what = None
        if one.model.preprocess != other.model.preprocess:
            what = "prepare their inputs differently"
        elif (one.select, one.affine, one.pair) != (other.select, other.affine, other.pair):
            what = "have their outputs in different order or scaling"
        if what is not None:
            raise ModelError(
                f"'{one.name}' and '{other.name}' {what}, so no mean of their weights fits both", "how", "fuse outputs instead"
            )
    return members


def mergeable(sources: Mapping[str, Source]) -> tuple[str | None, bool]:
    """Why no rule on weights can apply, as far as architectures tell (None where some can), and whether all tensors have one shape."""
    members = [source.member for source in sources.values() if source.member is not None]
    if len(members) < len(sources):
        return "a table of predictions has none", False
    names = [member.name for member in members]
    shapes = [{key: tuple(value.shape) for key, value in member.model.network.state_dict().items()} for member in members]
    for place in range(1, len(shapes)):
        if shapes[place].keys() != shapes[0].keys():
            return f"'{names[0]}' and '{names[place]}' have different architectures", False
        if members[place].model.preprocess != members[0].model.preprocess:
            return f"'{names[0]}' and '{names[place]}' prepare their inputs differently", False
    return None, all(own == shapes[0] for own in shapes)


def calibration_of(recipe: FuseRecipe, panel: Panel, member: Member) -> Calibration:
    """Training samples in a fixed random order, the task's loss where some have a label, and the metric on validation, higher is better.

    Labels are the data's; a member's plain network may have their classes in another order, which `arranged` puts right.
    """
    data = panel.data
    labels = standardised(data.train, data).labels
    order = torch.randperm(len(data.train), generator=seeds.generator(recipe.seed, "fuse", "calibration"))
    order = order[torch.argsort(~is_labelled(labels)[order], stable=True)]  # those with a label first
    preprocess = member.model.preprocess
    assert preprocess is not None
    sign = 1.0 if panel.higher else -1.0

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in order[:count].split(BATCH):
            yield data.train.exact(rows, preprocess), labels[rows]

    def evaluate(network: nn.Module) -> float:
        try:
            value = panel.value(arranged(member, predict(network, data.val, preprocess)))
        except (ArithmeticError, ModelError):
            return -math.inf
        return sign * value

    def loss(outputs: Tensor, found: Tensor) -> Tensor:
        return task_loss(data.task, arranged(member, outputs), found)

    return Calibration(batches, loss if bool(is_labelled(labels).any()) else None, evaluate, partial(arranged, member))


def arranged(member: Member, outputs: Tensor) -> Tensor:
    """A plain network's outputs in the data's order and scaling."""
    if member.select is not None:
        outputs = outputs[:, member.select]
    if member.affine is not None:
        factor, shift = (outputs.new_tensor(part) for part in member.affine)
        outputs = outputs * factor + shift
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1) if member.pair else outputs


def task_loss(task: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """The label loss per sample: cross-entropy, its Bernoulli form summed over classes, or the squared error; NaN without a label."""
    if task == "classification":
        found = F.cross_entropy(outputs, labels, reduction="none", ignore_index=-1)
    elif task == "multilabel":
        found = F.binary_cross_entropy_with_logits(outputs, labels.to(outputs), reduction="none").sum(1)
    else:
        found = (outputs - labels.reshape(outputs.shape).to(outputs)).square().sum(1)
    return found.masked_fill(~is_labelled(labels), math.nan)  # a sample without a label is not one without a loss


def base_of(recipe: FuseRecipe, data: DataSet, member: Member) -> nn.Module:
    """The network that the sources were trained from.

    Raises:
        ModelError: it can't be opened, or is a table.
    """
    assert recipe.base is not None
    request = request_for(recipe.base, data, recipe.seed, fresh=False)
    if recipe.base.source.startswith("builtin:"):
        request.outputs = member.model.options.get("outputs")
    opened = models.open_model(recipe.base.source, request)
    if opened.module is None:
        raise ModelError(f"{opened.source} is a table and has no weights", "base", "give the network that the sources were trained from")
    return opened.network.network if isinstance(opened.network, SelectedOutputs) else opened.network


def inputs_of(panel: Panel) -> Inputs:
    """What a module of several networks takes: raw inputs as the data hold them, pictures in files at one size."""
    data = panel.data
    preprocess = canonical(data, {name: source.model for name, source in panel.sources.items()})
    return Inputs(data.input_shape, preprocess, pools.raw_dtype(data.train) == torch.uint8)


def as_model(panel: Panel, member: Member, network: nn.Module) -> Model:
    """A network of the sources' make, with their outputs put in the data's order; it is saved and opened like any other."""
    data = panel.data
    plain = replace(member.model, module=network.eval(), notes=[], pretrained=True)
    if member.affine is not None:  # the sources' scaling is not the data's
        rule = output_rule("mean_logits")(data.task)
        rule.build(1, data.outputs)
        kept = Member("merged", plain, member.select, member.affine, member.pair)
        return ensemble([kept], Rule("mean_logits", {"task": data.task}, rule), list(data.classes), data.target, inputs_of(panel))
    module = network if member.select is None else SelectedOutputs(network, member.select)
    return replace(plain, module=module.eval(), classes=list(data.classes) or None, target=data.target)
