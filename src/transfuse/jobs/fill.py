"""Completes what teachers will be asked in a recipe's training, before it: all samples, all views, in one process, several ranks or Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import Progress, WeightedObjective
from transfuse.engine import parallel
from transfuse.engine.loader import build_loader
from transfuse.engine.order import Order
from transfuse.engine.teacher_cache.cached import CachedTeacher
from transfuse.engine.teacher_cache.teachers import with_features
from transfuse.errors import RecipeError
from transfuse.jobs import distill
from transfuse.jobs.context import Context
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import open_student
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare import opening
from transfuse.jobs.train.training import views_of
from transfuse.recipe.schema import DistillRecipe, Recipe

UNIT = 2048  # samples that are handed to a worker at once


@dataclass(frozen=True)
class Unit:
    """Some samples of one view for one teacher."""

    teacher: str
    view: int
    start: int
    stop: int


class Filling:
    """A recipe's teachers, opened, and all that there is to ask them.

    Args:
        recipe: of a distillation.
        reporter: who is told; None: nobody.

    Raises:
        TransfuseError: the recipe would be refused; it asks its teachers live; it trains them itself.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter | None = None):
        self.context = _context(recipe, reporter)
        recipe = recipe.model_copy(update={"out": None})
        assert isinstance(recipe, DistillRecipe)
        opened = opening.prepare(recipe, self.context)
        self.recipe, self.data = opened.recipe, opened.data
        self.count = _views(self.recipe)
        student = open_student(self.recipe.student, self.data, self.recipe.seed, None)
        self.oracles = distill.obtain_teachers(self.context, self.recipe, self.data, opened.teachers, student)
        assert isinstance(self.recipe.objectives, list)
        objectives = [terms.build(block, tuple(self.oracles), {}) for block in self.recipe.objectives]
        models = {name: oracle.model for name, oracle in self.oracles.items()}
        connected, _ = terms.connected(objectives, student, models, self.data, self.recipe.seed)
        self.teachers = self._remembered({name: tapped_paths(connected, name) for name in self.oracles})

    def _remembered(self, paths: Mapping[str, tuple[str, ...]]) -> dict[str, CachedTeacher]:
        """The teachers that are not asked live, with the features that they answer with."""
        pool, train = training_pool(self.data), self.recipe.train
        views, classes = views_of(self.recipe.augment), len(self.data.classes) or None
        loader = build_loader(pool, views, Order(len(pool), 1, 0), self.context.device, train.loader, 0, classes)
        channels_last = train.channels_last is True and self.data.modality == "image"
        networks = {name: oracle for name, oracle in self.oracles.items() if oracle.model.module is not None}
        # a teacher whose features aren't kept is asked live in training, and its logits are of no use
        asked = {name: with_features(oracle.teacher(pool, loader, channels_last), paths[name]) for name, oracle in networks.items()}
        return {name: teacher for name, teacher in asked.items() if isinstance(teacher, CachedTeacher)}

    def units(self) -> list[Unit]:
        """All there is to ask, view by view."""
        return [
            Unit(name, view, start, min(start + UNIT, teacher.rows))
            for name, teacher in self.teachers.items()
            for view in range(self.count)
            for start in range(0, teacher.rows, UNIT)
        ]

    def complete(self, unit: Unit, progress: Callable[[int], None] | None = None) -> int:
        """Asks about what is missing of a unit; returns how many samples were."""
        teacher = self.teachers[unit.teacher]
        before = teacher.forwards
        teacher.complete(unit.view, np.arange(unit.start, unit.stop), progress)
        return teacher.forwards - before

    def finish(self) -> int:
        """Asks about validation and test samples and measures what the teachers cost; returns how many samples were asked."""
        before = sum(oracle.asked() for oracle in self.oracles.values())
        for oracle in self.oracles.values():
            oracle.outputs(self.data.val)
            oracle.outputs(self.data.test)
            oracle.cost(self.recipe.budget.threads)
        return sum(oracle.asked() for oracle in self.oracles.values()) - before


def tapped_paths(objectives: Sequence[WeightedObjective], teacher: str) -> tuple[str, ...]:
    """The features of a teacher that objectives look at."""
    return tuple(dict.fromkeys(path for one in objectives if teacher in one.teachers for path in one.taps_of(teacher)))


def fill(recipe: Recipe, reporter: Reporter | None = None) -> int:
    """Fills the cache for a recipe; ranks of torchrun share the work, and an interrupted filling is gone on with by calling it again.

    Args:
        recipe: of a distillation.
        reporter: who is told; None: nobody.

    Returns:
        How many samples the teachers were asked about, over all ranks.
    """
    filling = Filling(recipe, reporter)
    units, asked, done = filling.units(), 0, 0
    total = sum(unit.stop - unit.start for unit in units)
    for unit in units[ranks.rank() :: ranks.world_size()]:
        asked += filling.complete(unit, _telling(filling.context, unit, done, total // ranks.world_size()))
        done += unit.stop - unit.start
    everybody = int(ranks.sum_over_ranks(torch.tensor(asked, device=filling.context.device)))
    if ranks.rank() == 0:
        everybody += filling.finish()
        _say_done(filling, total, everybody)
    parallel.stop()
    return everybody


def fill_with_ray(recipe: Recipe, workers: int, reporter: Reporter | None = None) -> int:
    """The same with Ray Data: so many workers, on all nodes of a cluster that see `cache.dir`, each open the recipe once and fill units.

    Args:
        recipe: of a distillation.
        workers: processes.
        reporter: who is told; None: nobody.

    Raises:
        MissingExtra: Ray is not installed.
    """
    from transfuse.jobs import ray_workers

    filling = Filling(recipe, reporter)
    units, asked, done = filling.units(), 0, 0
    total = sum(unit.stop - unit.start for unit in units)
    for unit, answered in ray_workers.each(recipe, units, workers):
        done += unit.stop - unit.start
        asked += answered
        _telling(filling.context, unit, done - (unit.stop - unit.start), total)(unit.stop - unit.start)
    asked += filling.finish()
    _say_done(filling, total, asked)
    return asked


def _context(recipe: Recipe, reporter: Reporter | None) -> Context:
    if not isinstance(recipe, DistillRecipe):
        raise RecipeError(f"is {recipe.job}; only distill asks the same teachers the same questions again", "job", "give its distillation")
    for name, block in recipe.teachers.items():
        if block.train is not None:
            where = f"teachers.{name}.train"
            raise RecipeError("the teacher is trained by the run itself", where, "run it, then fill for a teacher run:FOLDER#teacher")
    return opening.new_context(recipe.model_copy(update={"out": None}), reporter, None)


def _views(recipe: DistillRecipe) -> int:
    if recipe.augment.views == "fresh":
        raise RecipeError("fresh views are asked live and not kept", "augment.views", "give a number of views, such as 8")
    return int(recipe.augment.views)


def _telling(context: Context, unit: Unit, before: int, total: int) -> Callable[[int], None]:
    def tell(done: int) -> None:
        here = min(before + done, total)
        context.listen(Progress(f"asking '{unit.teacher}'", here, total, float(unit.view)))

    return tell


def _say_done(filling: Filling, total: int, asked: int) -> None:
    known = f"{total:,} answers in {filling.count} view{'s' if filling.count > 1 else ''} are stored in {filling.recipe.cache.dir}"
    live = [name for name, oracle in filling.oracles.items() if name not in filling.teachers and oracle.model.table is None]
    filling.context.say(f"{known}; {asked:,} samples were asked about now")
    if live:
        filling.context.say(f"{' and '.join(live)}: asked live in training, so nothing was stored")
