"""transfuse distill: recipe -> data -> check -> models -> objectives -> engine -> evaluate -> report, in this order.

Every stage leaves a file and is skipped where its file is there, so resuming a run is running it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from transfuse import models
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.engine import parallel
from transfuse.engine.asked import never_kept
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.steppers.mutual import Mutual
from transfuse.engine.steppers.supervised import Supervised
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.answers import Oracle, teachers_on
from transfuse.jobs.parts.initialisation import initialise
from transfuse.jobs.parts.networks import open_student, open_teacher, restore, with_head_of
from transfuse.jobs.parts.peers import joined, open_peers, restore_peers, save_peers, say_where_they_begin
from transfuse.jobs.parts.pools import standardised, training_pool
from transfuse.jobs.prepare import opening
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.train import control, probing, stages
from transfuse.jobs.train.sheet import keep_views
from transfuse.jobs.train.training import Lesson, teach, views_of
from transfuse.recipe.control import control_objectives
from transfuse.recipe.schema import DistillRecipe


def run(recipe: DistillRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new distillation.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context, opened = opening.begin(recipe, reporter, recipe_text, live)
    return _run(context, opened.recipe, opened.data, opened.teachers, began)


def resume(context: Context, recipe: DistillRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    data = opening.open_data_of(recipe, context)
    return _run(context, recipe, data, {}, began)


def _run(context: Context, recipe: DistillRecipe, data: DataSet, teachers: Mapping[str, Model], began: float) -> Run:
    context.say(split_ready(data))
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, recipe, data, teachers, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, recipe: DistillRecipe, data: DataSet, teachers: Mapping[str, Model], began: float) -> Run:
    pool = training_pool(data)
    untrained = open_student(recipe.student, data, recipe.seed, context.live.student)
    oracles = obtain_teachers(context, recipe, data, teachers, untrained)

    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
    baseline = control.obtain(context, recipe, data, untrained, pool, label_terms)

    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    if not context.rundir.student.exists():
        initialise(context, recipe.student, data, student, recipe.seed, {name: oracle.model for name, oracle in oracles.items()})
    assert isinstance(recipe.objectives, list)
    objectives = [terms.build(block, tuple(oracles), context.live.objectives) for block in recipe.objectives]
    peers = open_peers(recipe, data, context.live)
    student = obtain_student(context, recipe, data, student, objectives, oracles, peers)

    finish.evaluate(context, recipe, data, finish.trained_models(student, baseline, peers), oracles, began)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_teachers(
    context: Context, recipe: DistillRecipe, data: DataSet, opened: Mapping[str, Model], student: Model
) -> dict[str, Oracle]:
    """Opens every teacher that isn't open yet, trains those that the recipe trains, and gives their answers the student's form."""
    oracles = {}
    for name, block in recipe.teachers.items():
        model = opened.get(name)
        if model is None:
            model = open_teacher(name, block, data, recipe.seed, context.live.teachers.get(name), block.train is not None)
        if block.train is not None:
            path = teacher_path(context.rundir, name)
            restore(model, path) if path.exists() else train_teacher(context, recipe, data, name, model)
        precision = recipe.train.precision
        for note in model.notes:
            context.say(f"teacher '{name}': {note}")
        model = with_head_of(student, model, data)
        if model.module is not None:
            model.module.to(context.device)
        oracles[name] = Oracle(name, model, data, recipe.cache, precision, context.device, context.say)
    return oracles


def teacher_path(rundir: RunDir, name: str) -> Path:
    """Where a teacher that was trained here is kept."""
    return rundir.teacher if name == "teacher" else rundir.path / f"teacher_{name}.safetensors"


def train_teacher(context: Context, recipe: DistillRecipe, data: DataSet, name: str, model: Model) -> None:
    """Trains a teacher on the labels and keeps it."""
    train = recipe.teachers[name].train
    assert train is not None
    pool = standardised(data.train, data)
    objectives = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    lesson = Lesson(name, pool, objectives, train, recipe.seed, context.rundir.metrics)
    outcome = teach(context, model, data, lesson, views_of(recipe.augment))
    model.pretrained = True
    context.keep(f"seconds.{name}", outcome.seconds)
    context.say(f"teacher '{name}': trained in {outcome.seconds:.0f} s, best on validation at step {outcome.best_step} of {outcome.steps}")
    if note := control.stopped_note(name, outcome):
        context.say(note)
    if ranks.rank() == 0:
        models.save_model(model, teacher_path(context.rundir, name), {"best_step": outcome.best_step})
        Checkpoints(context.rundir.checkpoints / name).clear()
    ranks.barrier()


def obtain_student(
    context: Context,
    recipe: DistillRecipe,
    data: DataSet,
    student: Model,
    objectives: Sequence[WeightedObjective],
    oracles: Mapping[str, Oracle],
    peers: Mapping[str, Model],
) -> Model:
    """Trains the student, with peers beside it where there are some, or opens all of them where they are trained already."""
    if context.rundir.student.exists():
        restore_peers(context.rundir, peers)
        return restore(student, context.rundir.student)
    pool = training_pool(data)
    channels_last = recipe.train.channels_last is True and data.modality == "image"
    opened = {name: oracle.model for name, oracle in oracles.items()}
    objectives, notes = terms.connected(objectives, student, opened, data, recipe.seed)
    for note in notes:
        context.say(note)
    if Checkpoints(context.rundir.checkpoints / "student").load()[0] is None:  # else what was measured lies in the checkpoint
        shown = probing.probe(context, data, standardised(data.train, data), student, opened, objectives, recipe.seed)
        for name, samples in shown.items():
            oracles[name].forwards += samples
    teachers = teachers_on(oracles, pool, channels_last, never_kept(objectives))
    stepper = Mutual if peers else Supervised
    lesson = Lesson("student", pool, objectives, recipe.train, recipe.seed, context.rundir.metrics, teachers, stepper)
    learner = joined(student, peers, objectives) if peers else student
    say_where_they_begin(context, recipe)
    before = context.ledger.get("teacher_forwards", 0)

    def keep_forwards() -> None:
        asked = torch.tensor(sum(oracle.asked() for oracle in oracles.values()), device=context.device)
        context.keep("teacher_forwards", before + int(ranks.sum_over_ranks(asked)))  # each process asks about its share

    context.while_training = keep_forwards
    outcome = stages.teach_in_stages(context, learner, data, lesson, views_of(recipe.augment))
    context.while_training = None
    keep_forwards()
    context.keep("seconds.student", outcome.seconds)
    if note := control.stopped_note("student", outcome):
        context.say(note)
    if ranks.rank() == 0:
        save_peers(context.rundir, recipe, peers, outcome.best_step)
        models.save_model(student, context.rundir.student, {"stopped": outcome.stopped, "best_step": outcome.best_step})
        stages.forget(context, lesson.name)
        if recipe.samples:
            keep_views(context.rundir, recipe.augment, pool)
    ranks.barrier()
    return student
