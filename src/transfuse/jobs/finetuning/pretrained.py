"""What a fine-tuning needs before it trains: the pretrained network, the same one from scratch, its layer groups, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from transfuse import models, policies
from transfuse.core import ranks, seeds
from transfuse.core.policy import Group, Phase
from transfuse.core.stages import stages_of
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.data import check
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.order import Order
from transfuse.errors import ModelError, RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import export
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.features import open_backbone
from transfuse.jobs.parts.initialisation import initialise
from transfuse.jobs.parts.networks import count_outputs, example, initial_seed, open_student, request_for
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.parts.scratch import from_scratch
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.refusals import refuse_augmentation, refuse_unwritable
from transfuse.jobs.prepare.rehearsal import Circumstances, refuse_impossible
from transfuse.jobs.train import control, probing
from transfuse.jobs.train.training import steps_of
from transfuse.models.groups import layer_groups
from transfuse.models.heads.linear import Linear
from transfuse.models.heads.placing import renew_head
from transfuse.recipe.finetune import START, DepthBlock, FinetuneRecipe
from transfuse.recipe.resolve import resolve, sentences

_ASKED_LIVE = {"teacher.logits", "teacher.logits.dense", "teacher.features"}  # needs that a look at the network before training can't meet


@dataclass
class Course:
    """A network under a policy.

    Attributes:
        policy: knows how to undress the network, where it dressed it.
        groups: of what may be trained, stem first and head last.
        phases: with rates for the network's own parameters, at least one of which is trained.
        head: parameters of the head.
    """

    policy: Any
    groups: list[Group]
    phases: list[Phase]
    head: tuple[nn.Parameter, ...]

    def undress(self, network: nn.Module) -> None:
        """Makes a plain network of it again."""
        if hasattr(self.policy, "undress"):
            self.policy.undress(network)


def open_network(recipe: FinetuneRecipe, data: DataSet, context: Context) -> Model:
    """The pretrained network with a head for the data's classes.

    Raises:
        ModelError: unknown, without trained weights, or its outputs don't match the data.
    """
    model = open_student(recipe.model, data, recipe.seed, context.live.student, key="model")
    initialise(context, recipe.model, data, model, recipe.seed, where="model")
    if not model.pretrained:
        fix = "give a source with weights (file:, run:, torchvision:NAME@WEIGHTS, timm: with a tag)"
        raise ModelError(f"{model.source} has no trained weights, so there is nothing to fine-tune", "model", fix)
    if not model.fresh and data.classes and context.live.student is None:
        _renew_foreign_head(recipe, model, data)
    return model


def _renew_foreign_head(recipe: FinetuneRecipe, model: Model, data: DataSet) -> None:
    """Puts a new head in the place of one that has as many outputs as the data have classes, but for other classes."""
    known = models.open_model(recipe.model.source, request_for(recipe.model, data, recipe.seed, fresh=False)).classes
    if known is None or known == list(data.classes):
        return
    renew_head(model, Linear(), data.outputs, example(model, data), initial_seed(recipe.seed))
    model.notes.append(f"the last layer was replaced: its {len(known)} outputs are {', '.join(known[:3])}..., not the classes of the data")


def untrained(recipe: FinetuneRecipe, data: DataSet, context: Context) -> Model:
    """The same network without its pretrained start: what the control begins with.

    Raises:
        ModelError: it can't be made from scratch.
    """
    model = open_network(recipe, data, context)
    found = from_scratch(model, example(model, data), count_outputs(model, data), initial_seed(recipe.seed))
    found.preprocess, found.classes, found.target = model.preprocess, model.classes, model.target
    return found


def start_of(recipe: FinetuneRecipe, data: DataSet, context: Context, objectives: list[WeightedObjective]) -> dict[str, Model]:
    """The pretrained network as it was, for objectives that ask it; empty where none does."""
    if not any(weighted.teachers for weighted in objectives):
        return {}
    return {START: open_backbone(recipe.model, data, recipe.seed, context.live.student)}


def course_of(policy: Mapping[str, Any], model: Model, data: DataSet, seed: int, batchnorm: str = "follow") -> Course:
    """Puts the model's network under a policy, in place.

    Parameters that are frozen when the network comes (a module given with `requires_grad=False`) stay frozen.

    Raises:
        RecipeError: the policy would train nothing, or doesn't fit the network.
        ModelError: no head can be found; lists the layers that might be meant.
    """
    name, settings = next(iter(policy.items()))
    chosen, network = policies.get(name)(**settings), model.network
    frozen = {id(parameter) for parameter in network.parameters() if not parameter.requires_grad}
    sample = example(model, data)
    try:
        found = layer_groups(network, sample, model.fresh)
    except ModelError as error:
        raise ModelError(error.what, "model.head", error.fix) from error
    head = found[-1].parameters
    if hasattr(chosen, "dress"):
        chosen.dress(network, head, seeds.derive(seed, "policy", name))
        found = layer_groups(network, sample, head)
    groups = [Group(group.name, tuple(one for one in group.parameters if id(one) not in frozen)) for group in found]
    groups = [group for group in groups if group.parameters]
    phases = [replace(phase, rates=tuple(rate for rate in phase.rates if rate.parameters and rate.ever)) for phase in chosen.phases(groups)]
    norms = _normalisation(network) if batchnorm == "frozen" else set()
    for phase in phases:
        trained = [one for rate in phase.rates for one in rate.parameters if id(one) not in norms and id(one) not in frozen]
        if not trained:
            what = f"policy {name} leaves every parameter of {model.source} frozen, so there is nothing to train"
            raise RecipeError(what, where="policy", fix="choose another policy, such as full")
    return Course(chosen, groups, phases, head)


def _normalisation(network: nn.Module) -> set[int]:
    layers = [layer for layer in network.modules() if getattr(layer, "running_mean", None) is not None]
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def prepare(recipe: FinetuneRecipe, context: Context) -> tuple[FinetuneRecipe, dict[str, str], DataSet]:
    """Opens and checks all that the job needs, without writing anything: the resolved recipe, its reasons, the data.

    Raises:
        TransfuseError: the job would be refused.
    """
    with context.holding():
        return _prepared(recipe, context)


def _prepared(recipe: FinetuneRecipe, context: Context) -> tuple[FinetuneRecipe, dict[str, str], DataSet]:
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    data = opening.open_source(recipe.data, {"model": recipe.model}, context)
    for warning in check.check(data):
        context.say(warning)
    if recipe.train.stop.metric is not None:
        metrics.higher_is_better(data.task, recipe.train.stop.metric)
    if recipe.control not in ("reuse", "train", "none"):
        control.of_run(recipe.control)
    model = open_network(recipe, data, context)
    for note in model.notes:
        context.say(f"model: {note}")
    facts = opening.facts_about(data, [data.train], context, count_outputs(model, data))
    resolved, reasons = resolve(recipe, replace(facts, start=True, teachers=(START,)))
    assert isinstance(resolved, FinetuneRecipe)
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    _refuse(resolved, data, model, context)
    export.rehearse(resolved.export, model, data)
    return resolved, reasons, data


def _refuse(recipe: FinetuneRecipe, data: DataSet, model: Model, context: Context) -> None:
    """What would else be met after minutes of training.

    Raises:
        TransfuseError: nothing to train, objectives that find no features or come in stages, a control that can't be made from scratch,
            classes too small for the folds of a search, an average that has no meaning, a cache that can't be written.
    """
    refuse_augmentation(recipe.augment, data)
    refuse_unwritable(Path(recipe.cache.dir))
    tried = recipe.depth.candidates if recipe.depth is not None else [recipe.policy]
    renamed, courses = False, list[Course]()
    for policy in tried:
        trial = replace(model, **_copied(model))
        courses.append(course_of(policy, trial, data, recipe.seed, recipe.batchnorm))
        renamed = renamed or trial.network.state_dict().keys() != model.network.state_dict().keys()
        _refuse_short(recipe, data, courses[-1])
    if recipe.average is not None:
        _refuse_average(recipe, model, courses[-1], tried)
    objectives = objectives_of(recipe, context)
    for weighted in objectives:
        if stages_of(weighted.objective):
            what = "is trained in stages of its own, which policies have too"
            raise RecipeError(what, where=f"objectives.{weighted.name}", fix="use it in a distill, or leave it out")
        if renamed and weighted.card.level == "parameters":
            what = "holds on to weights that the policy's adapters leave as they are"
            raise RecipeError(what, where=f"objectives.{weighted.name}", fix="leave it out, or choose another policy")
    copied = replace(model, **_copied(model))
    start = start_of(recipe, data, context, objectives)
    objectives, _ = terms.connected(objectives, copied, start, data, recipe.seed)
    given = Circumstances(data, standardised(data.train, data), _order(recipe, data), recipe.train, recipe.augment, recipe.cache)
    refuse_impossible(asked_in_every_step(objectives), copied, start, given)
    if recipe.control in ("reuse", "train"):
        untrained(recipe, data, context)
    if recipe.depth is not None:
        _refuse_depth(recipe, recipe.depth, data)


def _refuse_short(recipe: FinetuneRecipe, data: DataSet, course: Course) -> None:
    steps = steps_of(recipe.train, _order(recipe, data))
    if steps < len(course.phases):
        what = f"{steps} step{'s' if steps != 1 else ''} can't be shared by {len(course.phases)} phases"
        raise RecipeError(what, where="train", fix="train for more steps, or choose a policy of one phase")


def _order(recipe: FinetuneRecipe, data: DataSet) -> Order:
    return Order(len(data.train), min(recipe.train.batch_size, len(data.train)), recipe.seed)


def _refuse_depth(recipe: FinetuneRecipe, depth: DepthBlock, data: DataSet) -> None:
    labels = data.train.labels
    if depth.folds is not None and not labels.is_floating_point():
        least = int(labels[labels >= 0].bincount(minlength=len(data.classes)).min())
        if least < depth.folds:
            samples = f"{least} training sample{'s' if least != 1 else ''}"
            what = f"a class has only {samples}, which can't be dealt into {depth.folds} folds"
            raise RecipeError(what, where="depth.folds", fix="fewer folds, or null to compare on the validation part")
    depth.rounds(steps_of(recipe.train, _order(recipe, data)))


def _copied(model: Model) -> dict[str, Any]:
    """Network and fresh parameters of a copy, told apart as in the original."""
    network, fresh = copy.deepcopy((model.network, model.fresh))
    return {"module": network, "fresh": fresh}


def _refuse_average(recipe: FinetuneRecipe, model: Model, course: Course, tried: list[dict[str, Any]]) -> None:
    assert recipe.average is not None
    if hasattr(course.policy, "dress") and recipe.average.how == "greedy_soup":
        what = "a soup averages weights of plain networks, and this policy trains something else beside them"
        raise RecipeError(what, where="average", fix="average: wise_ft, or another policy")
    meaningful = not model.fresh or all(next(iter(policy)) in ("lp_ft", "probe") for policy in tried)
    if recipe.average.how == "wise_ft" and not meaningful:
        what = "wise_ft goes back towards the start, whose head is new and knows nothing"
        raise RecipeError(what, where="average", fix="policy: lp_ft, whose start has a trained head, or average: greedy_soup")


def objectives_of(recipe: FinetuneRecipe, context: Context) -> list[WeightedObjective]:
    """The recipe's terms; those that ask a teacher ask the start."""
    assert isinstance(recipe.objectives, list)
    return [terms.build(block, (START,), context.live.objectives) for block in recipe.objectives]


def obtain_objectives(
    context: Context, recipe: FinetuneRecipe, data: DataSet, model: Model
) -> tuple[list[WeightedObjective], dict[str, Model]]:
    """Terms that know the network they look at, and the network that it started as, where a term asks it in every step.

    What an objective measures before training is measured unless the last phase has begun: then it lies in its checkpoint.
    """
    objectives = objectives_of(recipe, context)
    start = start_of(recipe, data, context, objectives)
    for asked in start.values():
        asked.network.to(context.device)
    objectives, notes = terms.connected(objectives, model, start, data, recipe.seed)
    for note in notes:
        context.say(note)
    if Checkpoints(context.rundir.checkpoints / "student").load()[0] is None:
        probing.probe(context, data, standardised(data.train, data), model, start, objectives, recipe.seed)
    model.network.to("cpu")
    objectives = asked_in_every_step(objectives)
    return objectives, start if any(weighted.teachers for weighted in objectives) else {}


def asked_in_every_step(objectives: Sequence[WeightedObjective]) -> list[WeightedObjective]:
    """The objectives, without a teacher where a look at the start before training told them all."""
    return [weighted if _ASKED_LIVE & set(weighted.card.needs) else replace(weighted, teachers=()) for weighted in objectives]
