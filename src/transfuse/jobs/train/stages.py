"""A training in stages: what objectives have prepared, what the student learns first, and the rest. Each is a run of the one loop.

Every stage has checkpoints of its own, so a run that is killed in any of them goes on there. The student's stages share one count of
steps, one order of the samples and one log; each has its own optimiser and runs through the recipe's learning-rate schedule once, as the
papers' stages do. Only the last one is validated.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from transfuse.core.protocols import Views
from transfuse.core.types import DataSet, Model
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loop import Outcome
from transfuse.engine.stages import Plan, Run, plan
from transfuse.engine.steppers.preparation import Preparation
from transfuse.jobs.context import Context
from transfuse.jobs.train.training import Lesson, order_of, steps_of, teach
from transfuse.recipe.blocks import TrainBlock

PREPARATION = "preparation"
LEAST_MINUTES = 1e-9  # where earlier stages took all the time: one step


def teach_in_stages(context: Context, model: Model, data: DataSet, lesson: Lesson, views: Views) -> Outcome:
    """As `training.teach`, in as many stages as the objectives ask for.

    Raises:
        RecipeError: the stages don't fit into the training.
    """
    planned = plan(lesson.objectives, steps_of(lesson.train, order_of(lesson)))
    say_what_comes(context, planned)
    for run in planned.preparations:
        prepare(context, model, data, lesson, run, views)
    for number, run in enumerate(planned.first):
        later = [in_first_stage(lesson, other).run for other in planned.first[number + 1 :]]
        if not any(has_checkpoint(context, name) for name in [*later, lesson.run]):  # else a later stage goes on from there
            train = with_minutes_left(lesson.train, seconds_of(context, planned.first[:number]))
            keep(context, run, teach(context, model, data, in_first_stage(replace(lesson, train=train), run), views))
    spent = seconds_of(context, planned.first)
    last = replace(lesson, objectives=planned.last, begin=planned.begin, train=with_minutes_left(lesson.train, spent))
    outcome = teach(context, model, data, last, views)
    return replace(outcome, seconds=outcome.seconds + spent)


def say_what_comes(context: Context, planned: Plan) -> None:
    """One sentence per stage, before the first one begins."""
    for run in planned.preparations:
        parts = " and ".join(run.stage.parts)
        context.say(
            f"{run.weighted.name}: {parts} prepared on the teacher alone in {run.steps} steps, on top of the student's {planned.steps}"
        )
    for run in planned.first:
        steps = f"{run.steps} of its {planned.steps} steps"
        context.say(f"{run.weighted.name}: the student learns from it alone for {steps}, and from the others without it afterwards")


def prepare(context: Context, model: Model, data: DataSet, lesson: Lesson, run: Run, views: Views) -> None:
    """Trains an objective's own parts on what the teachers say, or loads them where that is done."""
    objective = run.weighted.objective
    parts = replace(model, module=nn.ModuleList([objective.get_submodule(name) for name in run.stage.parts]))
    train = without_clock(lesson.train).model_copy(update={"compile": False})
    name = f"{lesson.name}.{run.weighted.name}"
    own = replace(lesson, name=name, objectives=[run.weighted], train=train, stepper=Preparation, stage=PREPARATION, end=run.steps)
    keep(context, run, teach(context, parts, data, own, views))


def in_first_stage(lesson: Lesson, run: Run) -> Lesson:
    """The lesson in which the student learns from one objective alone."""
    return replace(lesson, objectives=[run.weighted], stage=run.weighted.name, begin=run.begin, end=run.end)


def keep(context: Context, run: Run, outcome: Outcome) -> None:
    """Remembers what a stage took, for the summary."""
    stages = context.ledger.get("stages", {})
    about = {"kind": run.stage.kind, "steps": run.steps, "seconds": round(outcome.seconds, 3)}
    context.keep("stages", {**stages, run.weighted.name: about})


def seconds_of(context: Context, runs: list[Run]) -> float:
    """What stages took, those before an interruption too."""
    stages = context.ledger.get("stages", {})
    return sum(stages.get(run.weighted.name, {}).get("seconds", 0.0) for run in runs)


def has_checkpoint(context: Context, name: str) -> bool:
    """Whether a training has begun, and can go on."""
    return Checkpoints(context.rundir.checkpoints / name).load()[0] is not None


def forget(context: Context, name: str) -> None:
    """Deletes the checkpoints of a training's earlier stages, once its results are written."""
    for folder in context.rundir.checkpoints.glob(f"{name}.*"):
        Checkpoints(folder).clear()


def without_clock(train: TrainBlock) -> TrainBlock:
    """A preparation's steps are its own and few, so the student's minutes don't stop it."""
    return train.model_copy(update={"stop": train.stop.model_copy(update={"minutes": None})})


def with_minutes_left(train: TrainBlock, spent: float) -> TrainBlock:
    """The block with so many seconds less on its clock."""
    if train.stop.minutes is None:
        return train
    left = max(train.stop.minutes - spent / 60, LEAST_MINUTES)
    return train.model_copy(update={"stop": train.stop.model_copy(update={"minutes": left})})
