"""What learning from several labelled sets needs before it trains: all opened, a resolved recipe, refusals, the terms and the order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core import ranks
from transfuse.core.heads import read_ending
from transfuse.core.seeds import derive, fresh_weights
from transfuse.core.types import DataSet, Model, Samples, WeightedObjective, float_labels
from transfuse.data import check
from transfuse.data.domains import Called, differing, same_names, side_by_side
from transfuse.data.locate import inside
from transfuse.data.samples import concat, relabel
from transfuse.engine.order import SeveralOrder, counts_of
from transfuse.engine.schedule import weight_function
from transfuse.engine.steppers.tasks import TaskLoss, Uncertain
from transfuse.errors import DataError, RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import export
from transfuse.jobs.parts import task_heads, terms
from transfuse.jobs.parts.networks import count_outputs, example, open_student
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.domains import opened_at_one_size
from transfuse.jobs.prepare.refusals import refuse_augmentation, refuse_unwritable
from transfuse.jobs.train import control
from transfuse.recipe.augment import MIXES
from transfuse.recipe.control import control_objectives
from transfuse.recipe.methods import ObjectiveBlock
from transfuse.recipe.resolve import resolve, sentences
from transfuse.recipe.together import SOURCE, TARGET, TogetherRecipe


@dataclass
class Sets:
    """Labelled sets in one form.

    Attributes:
        sources: by name, with all parts.
        target: the one that the student is for.
        shared: by source, whether the target's head serves it, too.
    """

    sources: dict[str, DataSet]
    target: DataSet
    shared: dict[str, bool]

    @property
    def pools(self) -> dict[str, Samples]:
        """The labelled training samples of each set, the target's last; regression labels in standard deviations, float labels with as
        many columns."""
        found = {name: standardised(part.train, part) for name, part in {**self.sources, TARGET: self.target}.items()}
        if not float_labels(found[TARGET].labels):
            return found
        widest = max(part.labels.shape[1] for part in found.values())
        return {name: _widened(part, widest) for name, part in found.items()}

    def pool(self, names: Collection[str]) -> Samples:
        """The samples of some sets, one set behind the other."""
        return reduce(concat, [samples for name, samples in self.pools.items() if name in names])


def _widened(samples: Samples, columns: int) -> Samples:
    labels = samples.labels
    return relabel(samples, torch.cat([labels, labels.new_zeros(len(labels), columns - labels.shape[1])], dim=1))


def called(name: str) -> Called:
    """What messages call the target, and a source beside it."""
    return Called(TARGET, SOURCE, TARGET, SOURCE) if name == SOURCE else Called(TARGET, f"'{name}' set", TARGET, f"sources.{name}")


def open_sets(recipe: TogetherRecipe, context: Context) -> Sets:
    """Opens all sets, and decides which of them share the target's head where the recipe leaves that open.

    Raises:
        DataError: one can't be opened, they don't go together, or a shared head is asked for and their classes differ.
    """
    blocks = recipe.data_blocks
    opened = {key.rpartition(".")[2]: data for key, data in opened_at_one_size(blocks, recipe.student, context, blocks).items()}
    target = opened.pop(TARGET)
    shared = {name: _shares(recipe, name, source, target, context) for name, source in opened.items()}
    sources = {}
    for name, source in [*opened.items(), *opened.items()]:  # twice, since a later one may make the target coloured
        target, source, notes = side_by_side(target, source, shared[name], called(name))
        for note in notes:
            context.say(note)
        sources[name] = replace(source, target=target.target) if shared[name] else source
    return Sets(sources, target, shared)


def _shares(recipe: TogetherRecipe, name: str, source: DataSet, target: DataSet, context: Context) -> bool:
    """Whether a source has the target's head.

    Raises:
        DataError: it is asked to, and its classes are others.
    """
    asked, alike = recipe.head_of(name), source.task == target.task and same_names(source, target)
    one = len(recipe.labelled) == 1
    if asked == "shared" and source.task == target.task and not alike:
        own = "heads=own" if one else f"heads.{name}=own"
        fix = f"{own} gives each set a last layer of its own; or rename the classes that mean the same"
        raise DataError(f"{differing(target, source, called(name))}, and a shared head needs the same ones", where="heads", fix=fix)
    shared = asked == "shared" or (asked == "auto" and alike)
    if asked == "auto":
        why = "the classes are the same" if shared else differing(target, source, called(name))
        several = f"'{name}' shares the target's" if shared else f"'{name}' has one of its own"
        context.say(f"heads: {('one for both' if shared else 'one for each') if one else several}, since {why}")
    return shared


def prepare(recipe: TogetherRecipe, context: Context) -> tuple[TogetherRecipe, dict[str, str], Sets]:
    """Opens and checks all that the job needs, without writing anything: the resolved recipe, its reasons, the data.

    Raises:
        TransfuseError: the job would be refused.
    """
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    sets = open_sets(recipe, context)
    for key, opened in zip(recipe.data_blocks, [*sets.sources.values(), sets.target], strict=True):
        with inside(key):
            warnings = check.check(opened)
        for warning in warnings:
            context.say(f"{key}: {warning}")
    if recipe.train.stop.metric is not None:
        metrics.higher_is_better(sets.target.task, recipe.train.stop.metric)
    if recipe.control not in ("reuse", "train", "none"):
        control.of_run(recipe.control)
    student = open_student(recipe.student, sets.target, recipe.seed, context.live.student)
    for note in student.notes:
        context.say(f"student: {note}")
    heads = {name: "shared" if shared else "own" for name, shared in sets.shared.items()}
    recipe = recipe.model_copy(update={"heads": next(iter(heads.values())) if len({*heads.values()}) == 1 else heads})
    facts = opening.facts_about(sets.target, list(sets.pools.values()), context, count_outputs(student, sets.target))
    resolved, reasons = resolve(recipe, facts)
    assert isinstance(resolved, TogetherRecipe)
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    _refuse(resolved, sets, student, context)
    return resolved, reasons, sets


def _refuse(recipe: TogetherRecipe, sets: Sets, student: Model, context: Context) -> None:
    """What would else be met after minutes of training.

    Raises:
        TransfuseError: batches that can't hold all sets, mixed samples, augmentation that doesn't fit the pictures, no last layer beside
            which another one could stand, a cache that can't be written.
    """
    counts = dict(zip(sets.pools, counts_in(recipe, sets), strict=True))
    if min(counts.values()) < ranks.world_size() or recipe.train.batch_size < len(counts):
        held = " and ".join(f"{count} of the {name}" for name, count in counts.items())
        what = f"a batch of {recipe.train.batch_size} would hold {held}"
        raise RecipeError(what, where="train.batch_size", fix="raise it, or set target_share nearer to 0.5")
    mixing = [name for name in MIXES if getattr(recipe.augment, name)]
    if mixing:
        what = f"{' and '.join(mixing)} would mix samples of one set with those of the other"
        raise RecipeError(what, where=f"augment.{mixing[0]}", fix="leave it out")
    refuse_augmentation(recipe.augment, sets.target)
    build_terms(recipe, sets, student, recipe.weights(1.0), False)
    for name, source in sets.sources.items():
        if not sets.shared[name] and not task_heads.fits(student, sets.target, source):
            why = f"what {student.source} does behind its last layer is not for other outputs"
            context.say(f"the head of '{name}' can't be kept as a network of its own: {why}")
    export.rehearse(recipe.export, student, sets.target)
    refuse_unwritable(Path(recipe.cache.dir))


def counts_in(recipe: TogetherRecipe, sets: Sets) -> list[int]:
    """Samples of each set in a batch, the target's last."""
    sizes = [len(pool) for pool in sets.pools.values()]
    return counts_of(sizes, recipe.train.batch_size, share_of(recipe, sets), recipe.target_share == "size")


def share_of(recipe: TogetherRecipe, sets: Sets) -> float:
    """The target's share of a batch."""
    if isinstance(recipe.target_share, float):
        return recipe.target_share
    sizes = [len(pool) for pool in sets.pools.values()]
    return sizes[-1] / sum(sizes)


def order_of(recipe: TogetherRecipe, sets: Sets, only: Collection[str] | None = None) -> SeveralOrder:
    """Which samples each step sees; of some sets alone, the same ones in the same steps."""
    sizes = {name: len(pool) for name, pool in sets.pools.items()}
    return SeveralOrder(sizes, counts_in(recipe, sets), recipe.seed, ranks.rank(), ranks.world_size(), only)


def build_terms(recipe: TogetherRecipe, sets: Sets, student: Model, weights: Mapping[str, Any], learnt: bool) -> list[WeightedObjective]:
    """The term "target" and one for each source by its name; a source's own head stands beside the student's.

    Args:
        recipe: resolved.
        sets: the data.
        student: untrained.
        weights: lambda, or a schedule of it, of each source that is learnt from.
        learnt: whether all terms have weights that are learnt.
    """
    block = control_objectives(recipe, sets.target.task)[0]
    uncertain: Uncertain | None = None
    if learnt:
        uncertain = "values" if sets.target.task == "regression" else "classes"
    numbers = {name: number for number, name in enumerate(sets.pools)}
    found = [_term(block, TARGET, TaskLoss(_loss(block), numbers[TARGET], sets.target.outputs, None, uncertain), 1.0, ())]
    for name, weight in weights.items():
        data, head, taps = sets.sources[name], None, ()
        if not sets.shared[name]:
            ending = read_ending(student.network, example(student, sets.target))
            taps = (f"{ending.path}@input",)
            with fresh_weights(derive(recipe.seed, "heads", name)):
                head = nn.Linear(ending.inputs.shape[1], data.outputs)
        found.append(_term(block, name, TaskLoss(_loss(block), numbers[name], data.outputs, head, uncertain), weight, taps))
    return found


def _loss(block: ObjectiveBlock) -> nn.Module:
    return terms.build(block, (), {}).objective


def _term(block: ObjectiveBlock, name: str, loss: TaskLoss, weight: Any, taps: tuple[str, ...]) -> WeightedObjective:
    return replace(terms.build(block, (), {}), name=name, objective=loss, weight=weight_function(weight), student_taps=taps)


def learnt_weights(objectives: Sequence[WeightedObjective]) -> dict[str, float]:
    """exp(-log variance) of each term with a learnt weight, by name."""
    found: dict[str, float] = {}
    for weighted in objectives:
        variance: Tensor | None = getattr(weighted.objective, "log_variance", None)
        if variance is not None:
            found[weighted.name] = float(torch.exp(-variance.detach()))
    return found
