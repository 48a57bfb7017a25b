"""Completes what teachers will be asked in a recipe's training, before it: all samples, all views, in one process, several ranks or Ray."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from transfuse.core import ranks
from transfuse.core.protocols import Reporter, Silent, Views
from transfuse.core.types import Progress
from transfuse.engine import parallel
from transfuse.engine.asked import Asked, asked_of, never_kept, of_two_views
from transfuse.engine.loader import build_loader
from transfuse.engine.order import Order
from transfuse.engine.repeatable import repeatable
from transfuse.engine.teacher_cache.cached import CachedTeacher
from transfuse.engine.teacher_cache.teachers import with_features
from transfuse.errors import RecipeError
from transfuse.jobs import distill, lineage, sweep
from transfuse.jobs.context import Context, Live
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import open_student
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare import opening
from transfuse.jobs.train.training import views_of
from transfuse.recipe.schema import DistillRecipe, Recipe
from transfuse.recipe.sweep import SweepRecipe

UNIT = 2048  # samples that are handed to a worker at once
_LAST = 2**40  # the piece of work after all views: validation and test samples
_DECIDING = ("teacher", "teachers", "augment", "data")  # keys whose values make other questions of what a teacher is asked


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
        recipe: of a distillation, or of a sweep, whose trials ask its own teachers the same.
        reporter: who is told; None: nobody.

    Raises:
        TransfuseError: the recipe would be refused; it asks its teachers live; it trains them itself.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter | None = None):
        self.given = _distillation(recipe, reporter)
        self.context = opening.new_context(self.given, reporter, None)
        opened = opening.prepare(self.given, self.context)
        self.recipe, self.data = opened.recipe, opened.data
        self.count = _views(self.recipe)
        student = open_student(self.recipe.student, self.data, self.recipe.seed, None)
        self.oracles = distill.obtain_teachers(self.context, self.recipe, self.data, opened.teachers, student)
        assert isinstance(self.recipe.objectives, list)
        objectives = [terms.build(block, tuple(self.oracles), {}) for block in self.recipe.objectives]
        models = {name: oracle.model for name, oracle in self.oracles.items()}
        connected, _ = terms.connected(objectives, student, models, self.data, self.recipe.seed)
        views, unkept = views_of(self.recipe.augment), never_kept(connected)
        self.teachers = self._remembered(views, dict.fromkeys(self.oracles, ()) | asked_of(connected), unkept)
        if views.second is not None:
            second = self._remembered(views.second, asked_of(of_two_views(connected)), unkept)
            self.teachers |= {f"{name}, second view": one for name, one in second.items()}
        self._claims = {name: teacher.logits.store.claims() for name, teacher in self.teachers.items()}

    def _remembered(self, views: Views, paths: Asked, unkept: Collection[str]) -> dict[str, CachedTeacher]:
        """Those of these teachers that are not asked live about such views, with the features that they answer with."""
        pool, train = training_pool(self.data), self.recipe.train
        classes = len(self.data.classes) or None
        loader = build_loader(pool, views, Order(len(pool), 1, 0), self.context.device, train.loader, 0, classes)
        channels_last = train.channels_last is True and self.data.modality == "image"
        networks = {name: self.oracles[name] for name in paths if self.oracles[name].model.module is not None and name not in unkept}
        # a teacher whose features aren't kept is asked live in training, and its logits are of no use
        asked = {name: with_features(oracle.teacher(pool, channels_last, loader), paths[name]) for name, oracle in networks.items()}
        return {name: teacher for name, teacher in asked.items() if isinstance(teacher, CachedTeacher)}

    def units(self) -> list[Unit]:
        """All there is to ask, view by view."""
        return [
            Unit(name, view, start, min(start + UNIT, teacher.rows))
            for name, teacher in self.teachers.items()
            for view in range(self.count)
            for start in range(0, teacher.rows, UNIT)
        ]

    def complete(self, unit: Unit, progress: Callable[[int], None] | None = None, wait: bool = True) -> int | None:
        """Asks about what is missing of a unit, unless another process is at it.

        Args:
            unit: of `units`.
            progress: told how many of its samples are done.
            wait: for that other process, to look at what it has left.

        Returns:
            How many samples were asked about; None where another process is at it.
        """
        teacher = self.teachers[unit.teacher]
        before = teacher.forwards
        with self._alone(unit.teacher, unit.view * -(-teacher.rows // UNIT) + unit.start // UNIT, wait) as alone:
            if not alone:
                return None
            with repeatable(self.context.device, self.context.say):  # the kernels of a training, so that it would have stored the same
                teacher.complete(unit.view, np.arange(unit.start, unit.stop), progress)
        return teacher.forwards - before

    def lacks(self, unit: Unit) -> bool:
        """Whether anything of a unit is missing; damage isn't looked for."""
        return bool(self.teachers[unit.teacher].lacking(unit.view, np.arange(unit.start, unit.stop)).any())

    def finish(self) -> int:
        """Asks about validation and test samples and measures what the teachers cost; returns how many samples were asked."""
        before = sum(oracle.asked() for oracle in self.oracles.values())
        for name, oracle in self.oracles.items():
            with self._alone(name, _LAST, wait=True):
                oracle.outputs(self.data.val)
                oracle.outputs(self.data.test)
                oracle.cost(self.recipe.budget.threads)
        return sum(oracle.asked() for oracle in self.oracles.values()) - before

    @contextmanager
    def _alone(self, teacher: str, piece: int, wait: bool) -> Iterator[bool]:
        """Holds a piece of the work, whoever else fills the same key; whether it is held."""
        claims = self._claims.get(teacher)
        if claims is None:
            yield True
            return
        held = claims.take(piece, wait)
        try:
            yield held
        finally:
            if held:
                claims.give_back(piece)


def fill(recipe: Recipe, reporter: Reporter | None = None) -> int:
    """Fills the cache for a recipe; ranks of torchrun share the work, and an interrupted filling is gone on with by calling it again.

    So do processes that fill the same key at the same time: each leaves alone what another one is at.

    Args:
        recipe: of a distillation or a sweep.
        reporter: who is told; None: nobody.

    Returns:
        How many samples the teachers were asked about, over all ranks.
    """
    filling = Filling(recipe, reporter)
    units, asked, done = filling.units(), 0, 0
    total = sum(unit.stop - unit.start for unit in units)
    mine = units[ranks.rank() :: ranks.world_size()]
    waiting, others = mine, []
    for wait in (False, True):
        for unit in waiting:
            answered = filling.complete(unit, _telling(filling.context, unit, done, total // ranks.world_size()), wait)
            if answered is None:
                others.append(unit)
            else:
                asked, done = asked + answered, done + unit.stop - unit.start
        waiting, others = others, []
    asked += sum(filling.complete(unit) or 0 for unit in mine if filling.lacks(unit))  # somebody may have deleted the cache meanwhile
    parallel.wait_for_all()  # the sum's own time limit is for processes that come to it together, and shares may take hours
    everybody = int(ranks.sum_over_ranks(torch.tensor(asked, device=filling.context.device)))
    if ranks.rank() == 0:
        everybody += filling.finish()
        _say_done(filling, total, everybody)
    parallel.stop()
    return everybody


def fill_with_ray(recipe: Recipe, workers: int, reporter: Reporter | None = None) -> int:
    """The same with Ray Data: so many workers, on all nodes of a cluster that see `cache.dir`, each open the recipe once and fill units.

    Args:
        recipe: of a distillation or a sweep.
        workers: processes.
        reporter: who is told; None: nobody.

    Raises:
        MissingExtra: Ray is not installed.
    """
    from transfuse.jobs import ray_workers

    filling = Filling(recipe, reporter)
    units, asked, done = filling.units(), 0, 0
    total = sum(unit.stop - unit.start for unit in units)
    for unit, answered in ray_workers.each(filling.given, units, workers):
        done += unit.stop - unit.start
        asked += answered
        _telling(filling.context, unit, done - (unit.stop - unit.start), total)(unit.stop - unit.start)
    asked += filling.finish()
    _say_done(filling, total, asked)
    return asked


def _distillation(recipe: Recipe, reporter: Reporter | None) -> DistillRecipe:
    """The distillation whose teachers are asked.

    Raises:
        RecipeError: the recipe has none, or trains its teachers itself.
    """
    if isinstance(recipe, SweepRecipe):
        recipe = _of_sweep(recipe, reporter or Silent())
    if not isinstance(recipe, DistillRecipe):
        fix = "give a recipe of distill or sweep: the distillation that its runs share, where it has one"
        raise RecipeError(f"is {recipe.job}, which can't be filled for", "job", fix)
    for name, block in recipe.teachers.items():
        if block.train is not None:
            where = f"teachers.{name}.train"
            raise RecipeError("the teacher is trained by the run itself", where, "run it, then fill for a teacher run:FOLDER#teacher")
    return recipe.model_copy(update={"out": None})


def _of_sweep(recipe: SweepRecipe, reporter: Reporter) -> DistillRecipe:
    """The distillation that a sweep varies, with the temperatures of all trials; says which questions stay for trials to ask."""
    resolved, _ = sweep.check(recipe, Silent(), Live())
    others = [key for key in recipe.entries if key.split(".", maxsplit=1)[0] in _DECIDING or key in ("train.precision", "objectives")]
    others += [key for key in recipe.entries if key.endswith("teacher_tap")]
    if others:
        names, keys = " and ".join(recipe.teachers), " and ".join(f"space.{key}" for key in others)
        reporter.say(f"{names}: asked as the recipe has them; for other values of {keys} trials ask themselves")
    return lineage.distillation(sweep.left_to_trials(recipe, resolved), {})


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
