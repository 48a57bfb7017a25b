"""transfuse adapt: recipe -> source and target -> one pool -> control on the source alone -> student on both -> report on the target.

Every stage leaves a file and is skipped where its file is there, so resuming a run is running it again.
"""

from __future__ import annotations

import time

from transfuse import models
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import samples as pools
from transfuse.engine import parallel
from transfuse.engine.order import PairedOrder, SourceOrder
from transfuse.engine.steppers.alternating import stepper_for
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.initialisation import initialise
from transfuse.jobs.parts.networks import open_student, restore
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.prepare import domains, opening
from transfuse.jobs.train import control
from transfuse.jobs.train.training import Lesson, teach, views_of
from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.control import control_objectives


def run(recipe: AdaptRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new adaptation.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; `data` is a mapping of "source" and "target".

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    resolved, reasons, both = domains.prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, resolved, reasons)
    return _run(context, resolved, both, began)


def resume(context: Context, recipe: AdaptRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    return _run(context, recipe, domains.open_both(recipe, context), began)


def check(recipe: AdaptRecipe, reporter: Reporter, live: Live) -> tuple[AdaptRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    resolved, reasons, _ = domains.prepare(recipe, opening.new_context(recipe, reporter, live))
    return resolved, reasons


def _run(context: Context, recipe: AdaptRecipe, both: domains.Domains, began: float) -> Run:
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, recipe, both, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, recipe: AdaptRecipe, both: domains.Domains, began: float) -> Run:
    data = both.data
    source, target = (standardised(pool, data) for pool in both.pools)
    order = domains.order_of(recipe, len(source), len(target))
    for note in domains.explained(recipe, both, order):
        context.say(note)

    untrained = open_student(recipe.student, data, recipe.seed, context.live.student)
    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
    alone = domains.order_of(recipe, len(source), len(target), SourceOrder)
    baseline = control.obtain(context, recipe, data, untrained, source, label_terms, alone)

    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    if not context.rundir.student.exists():
        initialise(context, recipe.student, data, student, recipe.seed)
    student = obtain_student(context, recipe, data, student, pools.concat(source, target), order)

    trained = finish.trained_models(student, baseline)
    asked = trained if ranks.rank() == 0 else {}
    on_source = {name: finish.on_source(data, both.source.test, model, recipe.seed) for name, model in asked.items()}
    finish.evaluate(context, recipe, data, trained, {}, began, on_source)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_student(context: Context, recipe: AdaptRecipe, data: DataSet, student: Model, pool: Samples, order: PairedOrder) -> Model:
    """Trains the student on both domains, or opens it where it is trained already."""
    if context.rundir.student.exists():
        return restore(student, context.rundir.student)
    assert isinstance(recipe.objectives, list)
    objectives = [terms.build(block, (), context.live.objectives) for block in recipe.objectives]
    objectives, notes = terms.connected(objectives, student, {}, data, recipe.seed)
    for note in notes:
        context.say(note)
    stepper = stepper_for(objectives)
    lesson = Lesson("student", pool, objectives, recipe.train, recipe.seed, context.rundir.metrics, stepper=stepper, order=order)
    outcome = teach(context, student, data, lesson, views_of(recipe.augment))
    context.keep("seconds.student", outcome.seconds)
    if note := control.stopped_note("student", outcome):
        context.say(note)
    if ranks.rank() == 0:
        models.save_model(student, context.rundir.student, {"stopped": outcome.stopped, "best_step": outcome.best_step})
    ranks.barrier()
    return student
