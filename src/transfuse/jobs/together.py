"""transfuse together: recipe -> labelled sets -> control on the target alone -> student on all -> report on the target and the others.

L = L_target + sum of lambda_k L_k over the sources. Every stage leaves a file and is skipped where its file is there, so resuming a run is
running it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from transfuse import models
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import Model
from transfuse.engine import parallel
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.steppers.tasks import SeveralTasks
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.parts import task_heads, terms
from transfuse.jobs.parts.networks import open_student, restore
from transfuse.jobs.prepare import opening, tasks
from transfuse.jobs.rundir import heads_beside, take_student
from transfuse.jobs.train import control
from transfuse.jobs.train.training import Lesson, steps_of, teach, validator, views_of
from transfuse.recipe.control import control_objectives
from transfuse.recipe.together import SOURCE, TARGET, TogetherRecipe


def run(recipe: TogetherRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new training on several sets.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; `data` is a mapping of "target" and the sources by name.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    resolved, reasons, sets = tasks.prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, resolved, reasons)
    return _run(context, resolved, sets, began)


def resume(context: Context, recipe: TogetherRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    return _run(context, recipe, tasks.open_sets(recipe, context), began)


def check(recipe: TogetherRecipe, reporter: Reporter, live: Live) -> tuple[TogetherRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    resolved, reasons, _ = tasks.prepare(recipe, opening.new_context(recipe, reporter, live))
    return resolved, reasons


def _run(context: Context, recipe: TogetherRecipe, sets: tasks.Sets, began: float) -> Run:
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, recipe, sets, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, recipe: TogetherRecipe, sets: tasks.Sets, began: float) -> Run:
    data = sets.target
    for note in explained(recipe, sets):
        context.say(note)
    untrained = open_student(recipe.student, data, recipe.seed, context.live.student)
    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
    alone = tasks.order_of(recipe, sets, [TARGET])
    baseline = control.obtain(context, recipe, data, untrained, sets.pool([TARGET]), label_terms, alone)

    student = obtain_student(context, recipe, sets)

    trained = finish.trained_models(student, baseline)
    reached = figures_of_tasks(context, recipe, sets, trained)
    context.keep("tasks", reached)
    shared = reached[SOURCE]["models"] if sets.shared.get(SOURCE) and reached else None
    finish.evaluate(context, recipe, data, trained, {}, began, shared)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_student(context: Context, recipe: TogetherRecipe, sets: tasks.Sets) -> Model:
    """The student; where lambda is chosen, the best on the target's validation part of one for each value."""
    data = sets.target
    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    if context.rundir.student.exists():
        return restore(student, context.rundir.student)
    about: dict[str, Any] = {"heads": recipe.heads, "target_share": tasks.share_of(recipe, sets)}
    if not recipe.candidates:
        learnt = train(context, recipe, sets, student, recipe.source_weight, "student")
        context.keep("together", {**about, "source_weight": recipe.source_weight, "candidates": [], "learnt_weights": learnt})
        return student
    found, metric = [], recipe.train.stop.metric or metrics.primary(data.task)[0]
    for value in recipe.candidates:
        candidate = open_student(recipe.student, data, recipe.seed, context.live.student)
        train(context, recipe, sets, candidate, value, candidate_name(value))
        validation = validator(candidate, data, context.device, metric, "student")(candidate.network.to(context.device))
        found.append({"source_weight": value, "validation": validation})
    context.keep("seconds.student", sum(context.ledger.get(f"seconds.{candidate_name(value)}", 0.0) for value in recipe.candidates))
    best = best_of(found, metric, metrics.higher_is_better(data.task, metric))
    among = ", ".join(f"{value:g}" for value in recipe.candidates)
    context.say(f"source_weight: {best:g} is the best of {among} on the target's validation part")
    if best == 0:
        left = "source" if len(recipe.labelled) == 1 else "sources"
        context.say(f"source_weight: 0 leaves the {left} out, so nothing was transferred")
    context.keep("together", {**about, "source_weight": best, "metric": metric, "candidates": found, "learnt_weights": {}})
    if ranks.rank() == 0:
        take_student(context.rundir.path / "candidates" / f"{candidate_name(best)}.safetensors", context.rundir.student)
    ranks.barrier()
    return restore(student, context.rundir.student)


def candidate_name(value: float) -> str:
    """What a training with one of several weights is called, in logs and file names."""
    return f"source_weight_{value:g}"


def best_of(found: list[dict[str, Any]], metric: str, higher: bool) -> float:
    """The weight with the best validation; of equals the smallest, which leans least on the source."""
    sign = 1 if higher else -1
    return min(found, key=lambda one: (-sign * one["validation"][metric], one["source_weight"]))["source_weight"]


def train(context: Context, recipe: TogetherRecipe, sets: tasks.Sets, student: Model, source_weight: Any, name: str) -> dict[str, float]:
    """Trains a student on all sets and keeps it, or opens it where it is kept already; gives the weights that were learnt, if any."""
    chosen = name == "student"
    path = context.rundir.student if chosen else context.rundir.path / "candidates" / f"{name}.safetensors"
    if not chosen and path.exists():
        restore(student, path)
        return {}
    alone, lesson = context.rundir.control / "student.safetensors", None
    if not weighing(recipe, source_weight) and recipe.control in ("reuse", "train") and alone.exists():
        about, learnt = {"stopped": "", "best_step": None}, {}
        restore(student, alone)  # without a source it is the control, which was trained a moment ago
    else:
        lesson = lesson_of(context, recipe, sets, student, (source_weight, name))
        outcome = teach(context, student, sets.target, lesson, views_of(recipe.augment))
        context.keep(f"seconds.{name}", outcome.seconds)
        if note := control.stopped_note(name, outcome):
            context.say(note)
        about, learnt = {"stopped": outcome.stopped, "best_step": outcome.best_step}, tasks.learnt_weights(lesson.objectives)
    if ranks.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        if lesson is not None:
            task_heads.save(heads_beside(path), student, sets.target, sets.sources, lesson.objectives, about)
        models.save_model(student, path, about)
        if not chosen:
            Checkpoints(context.rundir.checkpoints / name).clear()
    ranks.barrier()
    return learnt


def weighing(recipe: TogetherRecipe, source_weight: Any) -> dict[str, Any]:
    """The weights of the sources that are learnt from: all but those of weight 0."""
    return {name: weight for name, weight in recipe.weights(source_weight).items() if weight != 0}


def lesson_of(context: Context, recipe: TogetherRecipe, sets: tasks.Sets, student: Model, weighted: tuple[Any, str]) -> Lesson:
    """What one student learns from: all sets, or, where no source weighs anything, the target alone, in the control's batches.

    A source that weighs nothing is left out of the batches too, since BatchNorm would see it there.

    Args:
        context: the job.
        recipe: resolved.
        sets: the data.
        student: untrained.
        weighted: the sources' weight, as the recipe has it, and what the training is called.
    """
    source_weight, name = weighted
    weights = weighing(recipe, source_weight)
    only = [*weights, TARGET]
    shared = (recipe.train, recipe.seed, context.rundir.metrics)
    order = tasks.order_of(recipe, sets, only)
    if weights:
        objectives = tasks.build_terms(recipe, sets, student, weights, source_weight == "uncertainty")
        return Lesson(name, sets.pool(only), objectives, *shared, stepper=SeveralTasks, order=order)
    target = terms.build(control_objectives(recipe)[0], (), {})
    return Lesson(name, sets.pool(only), [target], *shared, order=order)


def figures_of_tasks(context: Context, recipe: TogetherRecipe, sets: tasks.Sets, trained: Mapping[str, Model]) -> dict[str, Any]:
    """What is reached on each source's test part: with its own head by the student, with the target's by all that was trained."""
    if ranks.rank() != 0:
        return {}
    own = task_heads.kept(heads_beside(context.rundir.student), trained["student"], sets.target, sets.sources)
    found: dict[str, Any] = {}
    for name, source in sets.sources.items():
        asked = trained if sets.shared[name] else {"student": own[name]} if name in own else {}
        figures = {model: finish.on_source(source, source.test, network, recipe.seed) for model, network in asked.items()}
        found[name] = {"head": "shared" if sets.shared[name] else "own", "models": figures}
        if not figures:
            found[name]["reason"] = "the source's weight is 0 or its head fits no network of its own, so there is none to ask"
    return found


def explained(recipe: TogetherRecipe, sets: tasks.Sets) -> list[str]:
    """What a reader should know of how the sets are used."""
    order = tasks.order_of(recipe, sets)
    *others, own = [f"{part.batch_size} {name}" for name, part in order.sets.items()]
    held = f"each batch holds {', '.join(others)} and {own} samples"
    notes = [
        *(f"{name}: {split_ready(data)}" for name, data in {**sets.sources, TARGET: sets.target}.items()),
        f"{held}; {steps_of(recipe.train, order)} steps",
        f"inputs of {'both' if len(sets.sources) == 1 else 'all'} are normalised as the target's",
    ]
    for name, shared in sets.shared.items():
        if not shared:
            notes.append(f"{name}: its own head learns beside the student's; run:PATH#head:{name} opens the network that ends in it")
    return notes
