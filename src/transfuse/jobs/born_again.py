"""transfuse born-again: a network teaches another one of its kind, which teaches the next.

Furlanello, Lipton, Tschannen, Itti, Anandkumar, 2018, ICML, "Born-Again Neural Networks", https://arxiv.org/abs/1805.04770:
generation k is a new network of the same architecture, initialised from another seed, that learns from the labels and from generation
k - 1. The prediction of the ensemble is the mean over generations 1 to k.

Deviations: the two losses are weighted with 1/2 each, so that a learning rate keeps its meaning (the paper adds them); the ensemble
averages probabilities. Each generation has a control, the same network with the same seed from labels alone, and so has the ensemble:
the same number of controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfuse.core.protocols import Reporter
from transfuse.errors import RecipeError
from transfuse.jobs import check as checking
from transfuse.jobs import lineage, series
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.series import Member
from transfuse.recipe.blocks import TeacherBlock
from transfuse.recipe.born_again import OBJECTIVES, BornAgainRecipe
from transfuse.recipe.control import control_objectives
from transfuse.recipe.methods import ObjectiveBlock, parse_objective
from transfuse.recipe.schema import Recipe

_LABELS_ONLY: dict[str, Any] = {"control": "none"}


def run(recipe: BornAgainRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs all generations.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the folder can be resumed.
    """
    context, resolved = series.begin(recipe, reporter, recipe_text, live)
    assert isinstance(resolved, BornAgainRecipe)
    return _runs(context, resolved)


def resume(context: Context, recipe: BornAgainRecipe) -> Run:
    """Goes on with the generations that are not finished."""
    series.go_on(context)
    return _runs(context, recipe)


def check(recipe: BornAgainRecipe, reporter: Reporter, live: Live) -> tuple[Recipe, dict[str, str]]:
    """Checks a generation that is taught, with an untrained network of its kind in its teacher's place.

    Raises:
        TransfuseError: it would be refused.
    """
    teachers = recipe.teachers or {"teacher": TeacherBlock.like(recipe.student, recipe.train)}
    objects = lineage.beside(live, live.teachers if recipe.teachers else {"teacher": live.student}, live.student)
    first, reasons = checking.run(lineage.distillation(recipe, {"teachers": teachers, "export": recipe.export}), reporter, objects)
    resolved, reasons = series.decided(recipe, first, reasons, ("teachers",))
    assert isinstance(resolved, BornAgainRecipe)
    if live.student is not None and resolved.data.task == "regression":
        what = "a module that predicts numbers can't teach the next generation: its outputs are in standard deviations of the labels"
        raise RecipeError(what, where="student", fix="give the student as a source such as builtin:mlp")
    if recipe.objectives == "auto" and resolved.data.task == "classification" and isinstance(resolved.objectives, list):
        blocks = [ObjectiveBlock(**parse_objective(entry)) for entry in OBJECTIVES]
        decided = [
            block.model_copy(update={"teacher": known.teacher, "parameters": {**block.parameters, **_distribution(known)}})
            for block, known in zip(blocks, resolved.objectives, strict=True)
        ]
        resolved = resolved.model_copy(update={"objectives": decided})
        reasons = {**reasons, "objectives": "labels and teacher in equal parts, as born-again networks have it"}
    return resolved, reasons


def _distribution(known: ObjectiveBlock) -> dict[str, Any]:
    return {"distribution": known.parameters["distribution"]} if "distribution" in known.parameters else {}


def _runs(context: Context, recipe: BornAgainRecipe) -> Run:
    members: list[Member] = []
    summaries = []
    for number in range(0 if not recipe.teachers else 1, recipe.generations + 1):
        member = _member(context, recipe, number)
        members.append(member)
        context.reporter.say(f"{member.name.replace('_', ' ')} of {recipe.generations}")
        summaries.append(series.obtain(context, member))
    entries = [series.entry(member, summary) for member, summary in zip(members, summaries, strict=True)]
    taught = [(member, summary) for member, summary in zip(members, summaries, strict=True) if "teacher" in member.differs]
    summary = {
        **series.summed_up(recipe, entries, summaries, members[-1].name),
        "series": "generations",
        **_figures(context, recipe, taught),
        **series.aggregated([summary for _, summary in taught]),
    }
    return series.deliver(context, recipe, members[-1].name, summary)


def _member(context: Context, recipe: BornAgainRecipe, number: int) -> Member:
    """One generation; number 0 learns from the labels alone."""
    name, seed = f"generation_{number}", recipe.seed + number
    differs: dict[str, Any] = {"seed": seed}
    student = context.live.student
    if number == 0:
        labels = _label_objectives(recipe)
        link = lineage.distillation(recipe, {"teachers": {}, "objectives": labels, "seed": seed, **_LABELS_ONLY})
        return Member(name, link, differs, lineage.beside(context.live, {}, student))
    if number == 1 and recipe.teachers:
        link = lineage.distillation(recipe, {"seed": seed})
        return Member(name, link, {**differs, "teacher": recipe.teachers["teacher"].source})
    before = f"generation_{number - 1}"
    block, module = lineage.graduate(series.folder(context, before), "student", student, recipe.student.preprocess)
    link = lineage.distillation(recipe, {"teachers": {"teacher": block}, "seed": seed})
    return Member(name, link, {**differs, "teacher": before}, lineage.beside(context.live, {"teacher": module}, student))


def _label_objectives(recipe: BornAgainRecipe) -> Sequence[ObjectiveBlock]:
    """What a generation without a teacher learns from: the terms of its own control."""
    return control_objectives(lineage.distillation(recipe, {}))


def _figures(context: Context, recipe: BornAgainRecipe, taught: Sequence[tuple[Member, dict[str, Any]]]) -> dict[str, Any]:
    """The last generation's models and gain, and those of the ensemble of all that were taught."""
    last = taught[-1][1]
    models, transfer = dict(last["models"]), dict(last["transfer"])
    if recipe.ensemble and len(taught) > 1:
        runs = [series.folder(context, member.name) for member, _ in taught]
        summaries = [summary for _, summary in taught]
        where = context.rundir.path
        models["ensemble"], together = lineage.ensemble(runs, "student", summaries, where)
        if "control" in models:
            models["control_ensemble"], theirs = lineage.ensemble(runs, "control", summaries, where)
            labels = lineage.answers(runs[0], "student")[1]
            transfer["ensemble_gain"], transfer["ensemble_gain_interval"] = lineage.gain(last, labels, together, theirs)
    return {"models": models, "teachers": last["teachers"], "transfer": transfer}
