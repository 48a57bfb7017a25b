"""transfuse together: recipe -> two labelled sets -> control on the target alone -> student on both -> report on the target.

L = L_target + lambda L_source. Every stage leaves a file and is skipped where its file is there, so resuming a run is running it again.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from transfuse import models
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import Model
from transfuse.engine import parallel
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.order import TargetOrder
from transfuse.engine.steppers.tasks import SeveralTasks
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import open_student, restore
from transfuse.jobs.prepare import opening, tasks
from transfuse.jobs.rundir import replacing
from transfuse.jobs.train import control
from transfuse.jobs.train.training import Lesson, steps_of, teach, validator, views_of
from transfuse.recipe.control import control_objectives
from transfuse.recipe.together import TogetherRecipe


def run(recipe: TogetherRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new training on two sets.

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
    resolved, reasons, both = tasks.prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, resolved, reasons)
    return _run(context, resolved, both, began)


def resume(context: Context, recipe: TogetherRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    return _run(context, recipe, tasks.open_both(recipe, context), began)


def check(recipe: TogetherRecipe, reporter: Reporter, live: Live) -> tuple[TogetherRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    resolved, reasons, _ = tasks.prepare(recipe, opening.new_context(recipe, reporter, live))
    return resolved, reasons


def _run(context: Context, recipe: TogetherRecipe, both: tasks.Both, began: float) -> Run:
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, recipe, both, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, recipe: TogetherRecipe, both: tasks.Both, began: float) -> Run:
    data = both.target
    for note in explained(recipe, both):
        context.say(note)
    untrained = open_student(recipe.student, data, recipe.seed, context.live.student)
    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
    alone = tasks.order_of(recipe, both, TargetOrder)
    baseline = control.obtain(context, recipe, data, untrained, both.pools[1], label_terms, alone)

    student = obtain_student(context, recipe, both)

    source_test = both.source.test if both.shared else None
    finish.evaluate(context, recipe, data, finish.trained_models(student, baseline), {}, began, source_test)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_student(context: Context, recipe: TogetherRecipe, both: tasks.Both) -> Model:
    """The student; where lambda is chosen, the best on the target's validation part of one for each value."""
    data = both.target
    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    if context.rundir.student.exists():
        return restore(student, context.rundir.student)
    about: dict[str, Any] = {"heads": recipe.heads, "target_share": tasks.share_of(recipe, both)}
    if not recipe.candidates:
        learnt = train(context, recipe, both, student, recipe.source_weight, "student")
        context.keep("together", {**about, "source_weight": recipe.source_weight, "candidates": [], "learnt_weights": learnt})
        return student
    found, metric = [], recipe.train.stop.metric or metrics.primary(data.task)[0]
    for value in recipe.candidates:
        candidate = open_student(recipe.student, data, recipe.seed, context.live.student)
        train(context, recipe, both, candidate, value, candidate_name(value))
        validation = validator(candidate, data, context.device, metric, "student")(candidate.network.to(context.device))
        found.append({"source_weight": value, "validation": validation})
    context.keep("seconds.student", sum(context.ledger.get(f"seconds.{candidate_name(value)}", 0.0) for value in recipe.candidates))
    best = best_of(found, metric, metrics.higher_is_better(data.task, metric))
    among = ", ".join(f"{value:g}" for value in recipe.candidates)
    context.say(f"source_weight: {best:g} is the best of {among} on the target's validation part")
    if best == 0:
        context.say("source_weight: 0 leaves the source out, so nothing was transferred")
    context.keep("together", {**about, "source_weight": best, "metric": metric, "candidates": found, "learnt_weights": {}})
    if ranks.rank() == 0:
        chosen = context.rundir.path / "candidates" / f"{candidate_name(best)}.safetensors"
        for suffix in (".json", ".safetensors"):
            with replacing(context.rundir.student.with_suffix(suffix)) as temporary:
                shutil.copyfile(chosen.with_suffix(suffix), temporary)
    ranks.barrier()
    return restore(student, context.rundir.student)


def candidate_name(value: float) -> str:
    """What a training with one of several weights is called, in logs and file names."""
    return f"source_weight_{value:g}"


def best_of(found: list[dict[str, Any]], metric: str, higher: bool) -> float:
    """The weight with the best validation; of equals the smallest, which leans least on the source."""
    sign = 1 if higher else -1
    return min(found, key=lambda one: (-sign * one["validation"][metric], one["source_weight"]))["source_weight"]


def train(context: Context, recipe: TogetherRecipe, both: tasks.Both, student: Model, source_weight: Any, name: str) -> dict[str, float]:
    """Trains a student on both sets and keeps it, or opens it where it is kept already; gives the weights that were learnt, if any."""
    chosen = name == "student"
    path = context.rundir.student if chosen else context.rundir.path / "candidates" / f"{name}.safetensors"
    if not chosen and path.exists():
        restore(student, path)
        return {}
    alone = context.rundir.control / "student.safetensors"
    if source_weight == 0 and recipe.control in ("reuse", "train") and alone.exists():
        about, learnt = {"stopped": "", "best_step": None}, {}
        restore(student, alone)  # without the source it is the control, which was trained a moment ago
    else:
        lesson = lesson_of(context, recipe, both, student, (source_weight, name))
        outcome = teach(context, student, both.target, lesson, views_of(recipe.augment))
        context.keep(f"seconds.{name}", outcome.seconds)
        if note := control.stopped_note(name, outcome):
            context.say(note)
        about, learnt = {"stopped": outcome.stopped, "best_step": outcome.best_step}, tasks.learnt_weights(lesson.objectives)
    if ranks.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        models.save_model(student, path, about)
        if not chosen:
            Checkpoints(context.rundir.checkpoints / name).clear()
    ranks.barrier()
    return learnt


def lesson_of(context: Context, recipe: TogetherRecipe, both: tasks.Both, student: Model, weighted: tuple[Any, str]) -> Lesson:
    """What one student learns from: both sets, or, where the source weighs nothing, the target alone, in the control's batches.

    A source that weighs nothing is left out of the batches too, since BatchNorm would see it there.

    Args:
        context: the job.
        recipe: resolved.
        both: the data.
        student: untrained.
        weighted: the source's weight, and what the training is called.
    """
    source_weight, name = weighted
    objectives = tasks.build_terms(recipe, both, student, source_weight)
    shared = (recipe.train, recipe.seed, context.rundir.metrics)
    if source_weight != 0:
        return Lesson(name, both.pool, objectives, *shared, stepper=SeveralTasks, order=tasks.order_of(recipe, both))
    target = terms.build(control_objectives(recipe)[0], (), {})
    return Lesson(name, both.pools[1], [target], *shared, order=tasks.order_of(recipe, both, TargetOrder))


def explained(recipe: TogetherRecipe, both: tasks.Both) -> list[str]:
    """What a reader should know of how both sets are used."""
    order = tasks.order_of(recipe, both)
    held = f"each batch holds {order.source.batch_size} source and {order.target.batch_size} target samples"
    notes = [
        f"source: {split_ready(both.source)}",
        f"target: {split_ready(both.target)}",
        f"{held}; {steps_of(recipe.train, order)} steps",
        "inputs of both are normalised as the target's",
    ]
    if not both.shared:
        notes.append("the source's own head learns beside the student's and is not shipped")
    return notes
