"""transfuse finetune: recipe -> data -> control from scratch -> policy -> learning rate -> phases -> average -> report.

Every stage leaves a file and is skipped where its file is there, so resuming a run is running it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from transfuse import models
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet, Model, Samples
from transfuse.engine import parallel
from transfuse.engine.checkpoint import Checkpoints
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.finetuning import averages, depth, phases, pretrained, rate_finder
from transfuse.jobs.finetuning.pretrained import Course
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import restore
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.prepare import opening
from transfuse.jobs.train import control, stages
from transfuse.jobs.train.sheet import keep_views
from transfuse.jobs.train.training import Lesson, views_of
from transfuse.recipe.control import control_objectives
from transfuse.recipe.finetune import FinetuneRecipe


def run(recipe: FinetuneRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new fine-tuning.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; the network is its `student`.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    resolved, reasons, data = pretrained.prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, resolved, reasons)
    return _run(context, resolved, data, began)


def resume(context: Context, recipe: FinetuneRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    return _run(context, recipe, opening.open_source(recipe.data, {"model": recipe.model}, context), began)


def check(recipe: FinetuneRecipe, reporter: Reporter, live: Live) -> tuple[FinetuneRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    resolved, reasons, _ = pretrained.prepare(recipe, opening.new_context(recipe, reporter, live))
    return resolved, reasons


def _run(context: Context, recipe: FinetuneRecipe, data: DataSet, began: float) -> Run:
    context.say(split_ready(data))
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, recipe, data, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, recipe: FinetuneRecipe, data: DataSet, began: float) -> Run:
    pool = standardised(data.train, data)
    baseline = obtain_control(context, recipe, data, pool)
    policy = depth.obtain(context, recipe, data) if recipe.depth is not None else recipe.policy
    student = obtain_student(context, recipe, policy, data, pool)

    finish.evaluate(context, recipe, data, finish.trained_models(student, baseline), {}, began)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_control(context: Context, recipe: FinetuneRecipe, data: DataSet, pool: Samples) -> Model | None:
    """The same network from scratch, from the labels, in as many steps."""
    if recipe.control not in ("reuse", "train"):
        return control.obtain(context, recipe, data, pretrained.open_network(recipe, data, context), pool, [])
    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    untrained = pretrained.untrained(recipe, data, context)
    label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
    rate = recipe.control_lr if recipe.control_lr is not None else recipe.lr
    if rate == "find":
        lesson = Lesson("control", pool, label_terms, recipe.train, recipe.seed, context.rundir.metrics)
        copied = pretrained.untrained(recipe, data, context)
        rate = rate_finder.obtain(context, recipe, copied, None, data, lesson, views_of(recipe.augment))
    adapted = recipe.model_copy(update={"train": rate_finder.with_rate(recipe.train, rate)})
    return control.obtain(context, adapted, data, untrained, pool, label_terms)


def obtain_student(context: Context, recipe: FinetuneRecipe, policy: Mapping[str, Any], data: DataSet, pool: Samples) -> Model:
    """Trains the pretrained network by the policy, or opens it where it is trained already."""
    student = pretrained.open_network(recipe, data, context)
    if context.rundir.student.exists():
        return restore(student, context.rundir.student)
    views, name = views_of(recipe.augment), next(iter(policy))
    rate = found_rate(context, recipe, policy, data, pool) if recipe.lr == "find" else recipe.lr
    train = rate_finder.with_rate(recipe.train, rate)
    objectives, start = pretrained.obtain_objectives(context, recipe, data, student)
    teachers = phases.asked_live(start, context, train)
    lesson = Lesson("student", pool, objectives, train, recipe.seed, context.rundir.metrics, teachers, snapshots=recipe.snapshots)
    origin = {key: value.detach().clone() for key, value in student.network.state_dict().items()}
    course = pretrained.course_of(policy, student, data, recipe.seed, recipe.batchnorm)
    context.say(explained(name, course, student))
    taught = phases.follow(context, recipe, student, course, data, lesson, views)
    course.undress(student.network)
    chosen = averages.settle(context, recipe, student, data, taught.outcome, _cpu(taught.begun or origin))
    keep_figures(context, recipe, policy, course, taught, {"lr": rate, "average": chosen})
    if note := control.stopped_note("student", taught.outcome):
        context.say(note)
    if ranks.rank() == 0:
        about = {"stopped": taught.outcome.stopped, "best_step": taught.outcome.best_step, "policy": name}
        models.save_model(student, context.rundir.student, about)
        Checkpoints(context.rundir.checkpoints / lesson.name).clear()
        stages.forget(context, lesson.name)
        if recipe.samples:
            keep_views(context.rundir, recipe.augment, pool)
    ranks.barrier()
    return student


def found_rate(context: Context, recipe: FinetuneRecipe, policy: Mapping[str, Any], data: DataSet, pool: Samples) -> float | None:
    """The student's learning rate by a range test with the label terms, on a network of its own."""
    copied = pretrained.open_network(recipe, data, context)
    label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
    label_terms, _ = terms.connected(label_terms, copied, {}, data, recipe.seed)
    course = pretrained.course_of(policy, copied, data, recipe.seed, recipe.batchnorm)
    lesson = Lesson("student", pool, label_terms, recipe.train, recipe.seed, context.rundir.metrics)
    return rate_finder.obtain(context, recipe, copied, course, data, lesson, views_of(recipe.augment))


def explained(name: str, course: Course, student: Model) -> str:
    """One sentence on what is trained."""
    last = course.phases[-1]
    trained = sum(parameter.numel() for rate in last.rates for parameter in rate.parameters)
    everything = sum(parameter.numel() for parameter in student.network.parameters())
    first = f", after a phase of the {course.phases[0].name}" if len(course.phases) > 1 else ""
    return f"policy {name}: {trained:,} of {everything:,} parameters are trained in {len(last.rates)} groups{first}"


def keep_figures(
    context: Context, recipe: FinetuneRecipe, policy: Mapping[str, Any], course: Course, taught: phases.Taught, more: Mapping[str, Any]
) -> None:
    """What summary and report say about the training beside its figures."""
    groups = [group.name for group in course.groups]
    about = {"policy": dict(policy), "batchnorm": recipe.batchnorm, "groups": groups, "phases": taught.phases, **more}
    context.keep("finetune", about)
    context.keep("seconds.student", taught.outcome.seconds)


def _cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}
