"""What learning from two labelled sets needs before it trains: both opened, a resolved recipe, refusals, the terms and the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core import ranks
from transfuse.core.heads import read_ending
from transfuse.core.seeds import derive
from transfuse.core.types import DataSet, Model, Samples, WeightedObjective, float_labels
from transfuse.data import check
from transfuse.data.domains import differing, same_names, side_by_side
from transfuse.data.samples import concat, relabel
from transfuse.engine.order import PairedOrder, counts_of
from transfuse.engine.schedule import weight_function
from transfuse.engine.steppers.tasks import TaskLoss, Uncertain
from transfuse.errors import DataError, RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import export
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import count_outputs, example, open_student
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.domains import opened_at_one_size
from transfuse.jobs.prepare.refusals import refuse_augmentation, refuse_unwritable
from transfuse.jobs.train import control
from transfuse.models.surgery import fresh_weights
from transfuse.recipe.augment import MIXES
from transfuse.recipe.control import control_objectives
from transfuse.recipe.resolve import resolve, sentences
from transfuse.recipe.together import TogetherRecipe

SOURCE, TARGET = 0, 1  # domains of the samples


@dataclass
class Both:
    """Two labelled sets in one form.

    Attributes:
        source, target: with all parts; the student is the target's.
        shared: whether one head serves both.
    """

    source: DataSet
    target: DataSet
    shared: bool

    @property
    def pools(self) -> tuple[Samples, Samples]:
        """The labelled training samples of each; regression labels in standard deviations, float labels with as many columns."""
        found = [standardised(part.train, part) for part in (self.source, self.target)]
        if not float_labels(found[0].labels):
            return found[0], found[1]
        widest = max(part.labels.shape[1] for part in found)
        return _widened(found[0], widest), _widened(found[1], widest)

    @property
    def pool(self) -> Samples:
        """The source's samples, then the target's."""
        return concat(*self.pools)


def _widened(samples: Samples, columns: int) -> Samples:
    labels = samples.labels
    return relabel(samples, torch.cat([labels, labels.new_zeros(len(labels), columns - labels.shape[1])], dim=1))


def open_both(recipe: TogetherRecipe, context: Context) -> Both:
    """Opens both sets, and decides whether they share a head where the recipe leaves that open.

    Raises:
        DataError: one can't be opened, they don't go together, or a shared head is asked for and their classes differ.
    """
    found = opened_at_one_size(recipe, context, ("source", "target"))
    source, target = found["source"], found["target"]
    same = source.task == target.task and same_names(source, target)
    shared = recipe.heads == "shared" or (recipe.heads == "auto" and same)
    if recipe.heads == "shared" and source.task == target.task and not same:
        fix = "heads=own gives each set a last layer of its own; or rename the classes that mean the same"
        raise DataError(f"{differing(source, target)}, and a shared head needs the same ones", where="heads", fix=fix)
    target, source, notes = side_by_side(target, source, same_classes=shared)  # in the target's order
    for note in notes:
        context.say(note.replace("the target's classes are the source's", "the source's classes are the target's") if shared else note)
    if recipe.heads == "auto":
        why = "the classes are the same" if shared else differing(source, target)
        context.say(f"heads: {'one for both' if shared else 'one for each'}, since {why}")
    if shared:
        source = replace(source, target=target.target)
    return Both(source, target, shared)


def prepare(recipe: TogetherRecipe, context: Context) -> tuple[TogetherRecipe, dict[str, str], Both]:
    """Opens and checks all that the job needs, without writing anything: the resolved recipe, its reasons, the data.

    Raises:
        TransfuseError: the job would be refused.
    """
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    both = open_both(recipe, context)
    for key, opened in (("source", both.source), ("target", both.target)):
        for warning in check.check(opened):
            context.say(f"{key}: {warning}")
    if recipe.train.stop.metric is not None:
        metrics.higher_is_better(both.target.task, recipe.train.stop.metric)
    if recipe.control not in ("reuse", "train", "none"):
        control.of_run(recipe.control)
    student = open_student(recipe.student, both.target, recipe.seed, context.live.student)
    for note in student.notes:
        context.say(f"student: {note}")
    recipe = recipe.model_copy(update={"heads": "shared" if both.shared else "own"})
    resolved, reasons = resolve(recipe, opening.facts_about(both.target, both.pools, context, count_outputs(student, both.target)))
    assert isinstance(resolved, TogetherRecipe)
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    _refuse(resolved, both, student)
    return resolved, reasons, both


def _refuse(recipe: TogetherRecipe, both: Both, student: Model) -> None:
    """What would else be met after minutes of training.

    Raises:
        TransfuseError: batches that can't hold both sets, mixed samples, augmentation that doesn't fit the pictures, no last layer beside
            which another one could stand, a cache that can't be written.
    """
    source, target = (len(pool) for pool in both.pools)
    counts = counts_of(source, target, recipe.train.batch_size, share_of(recipe, both))
    if min(counts) < ranks.world_size() or recipe.train.batch_size < 2:
        what = f"a batch of {recipe.train.batch_size} would hold {counts[0]} of the source and {counts[1]} of the target"
        raise RecipeError(what, where="train.batch_size", fix="raise it, or set target_share nearer to 0.5")
    mixing = [name for name in MIXES if getattr(recipe.augment, name)]
    if mixing:
        what = f"{' and '.join(mixing)} would mix samples of one set with those of the other"
        raise RecipeError(what, where=f"augment.{mixing[0]}", fix="leave it out")
    refuse_augmentation(recipe.augment, both.target)
    build_terms(recipe, both, student, 1.0)
    export.rehearse(recipe.export, student, both.target)
    refuse_unwritable(Path(recipe.cache.dir))


def share_of(recipe: TogetherRecipe, both: Both) -> float:
    """The target's share of a batch."""
    if isinstance(recipe.target_share, float):
        return recipe.target_share
    source, target = (len(pool) for pool in both.pools)
    return target / (source + target)


def order_of(recipe: TogetherRecipe, both: Both, kind: type[PairedOrder] = PairedOrder) -> PairedOrder:
    """Which samples each step sees."""
    source, target = (len(pool) for pool in both.pools)
    share = share_of(recipe, both)
    return kind(source, target, recipe.train.batch_size, recipe.seed, share, ranks.rank(), ranks.world_size())


def build_terms(recipe: TogetherRecipe, both: Both, student: Model, source_weight: Any) -> list[WeightedObjective]:
    """The terms "target" and "source"; with heads of their own, the source's stands beside the student's and is not shipped.

    Args:
        recipe: resolved.
        both: the data.
        student: untrained.
        source_weight: lambda, a schedule of it, or "uncertainty".
    """
    block = control_objectives(recipe, both.target.task)[0]
    uncertain: Uncertain | None = None
    if source_weight == "uncertainty":
        uncertain, source_weight = ("values" if both.target.task == "regression" else "classes"), 1.0
    tap: tuple[str, ...] = ()
    head: nn.Module | None = None
    if not both.shared:
        ending = read_ending(student.network, example(student, both.target))
        tap = (f"{ending.path}@input",)
        with fresh_weights(derive(recipe.seed, "heads", "source")):
            head = nn.Linear(ending.inputs.shape[1], both.source.outputs)
    found = []
    for name, domain, data, own, weight in (
        ("target", TARGET, both.target, None, 1.0),
        ("source", SOURCE, both.source, head, source_weight),
    ):
        plain = terms.build(block, (), {})
        loss = TaskLoss(plain.objective, domain, data.outputs, own, uncertain)
        taps = tap if own is not None else ()
        found.append(replace(plain, name=name, objective=loss, weight=weight_function(weight), student_taps=taps))
    return found


def learnt_weights(objectives: Sequence[WeightedObjective]) -> dict[str, float]:
    """exp(-log variance) of each term with a learnt weight, by name."""
    found: dict[str, float] = {}
    for weighted in objectives:
        variance: Tensor | None = getattr(weighted.objective, "log_variance", None)
        if variance is not None:
            found[weighted.name] = float(torch.exp(-variance.detach()))
    return found
