"""transfuse assistants: networks of sizes between teacher and student pass on what the teacher knows.

Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh, 2020, AAAI, "Improved Knowledge Distillation via Teacher Assistant" (TAKD),
https://arxiv.org/abs/1902.03393: each network of the chain is taught by the one before it.
With `dense: true`, Son, Na, Choi, Hwang, 2021, ICCV, "Densely Guided Knowledge Distillation using Multiple Teacher Assistants" (DGKD),
https://arxiv.org/abs/2009.08825: each network is taught by all before it.

Deviations of the dense form: the weight of an objective is divided among the teachers, so that it means the same beside the labels
whatever their number; the paper's random dropping of teachers is not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter, Silent
from transfuse.errors import RecipeError
from transfuse.jobs import check as checking
from transfuse.jobs import lineage, series
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.series import Member
from transfuse.recipe.assistants import AssistantsRecipe
from transfuse.recipe.blocks import ModelBlock, TeacherBlock
from transfuse.recipe.forms import entry_names
from transfuse.recipe.methods import ObjectiveBlock
from transfuse.recipe.needs import card_of
from transfuse.recipe.schema import Recipe
from transfuse.report.asked import model as in_words

STUDENT, PLAIN = "student", "without_assistants"


def run(recipe: AssistantsRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs the chain from the teacher to the student.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the folder can be resumed.
    """
    context, resolved = series.begin(recipe, reporter, recipe_text, live)
    assert isinstance(resolved, AssistantsRecipe)
    return _runs(context, resolved)


def resume(context: Context, recipe: AssistantsRecipe) -> Run:
    """Goes on with the links that are not finished."""
    series.go_on(context)
    return _runs(context, recipe)


def check(recipe: AssistantsRecipe, reporter: Reporter, live: Live) -> tuple[Recipe, dict[str, str]]:
    """Checks every link, with untrained networks in the place of teachers that are trained on the way.

    Raises:
        TransfuseError: one of them would be refused.
    """
    if recipe.dense and live.objectives:
        fix = "give it as a recipe's entry, or leave dense out"
        raise RecipeError("an objective that was given as an object can't be repeated for several teachers", "objectives", fix)
    found: list[tuple[Recipe, dict[str, str]]] = []
    for number, (_, block) in enumerate(networks(recipe)):
        earlier = [TeacherBlock.like(assistant, recipe.train) for assistant in recipe.assistants[:number]]
        teachers = _taught_by(recipe, recipe.teachers["teacher"], earlier)
        own = live.student if block is recipe.student else None
        objects = lineage.beside(live, live.teachers if _is_first(recipe, number) else {}, own)
        exported = recipe.export if block is recipe.student else []
        link = lineage.distillation(recipe, {"student": block, "teachers": teachers, "export": exported})
        found.append(checking.run(link, reporter if not found else Silent(), objects))
    resolved, reasons = series.decided(recipe, found[0][0], found[0][1], ("student",))
    return resolved, reasons


def networks(recipe: AssistantsRecipe) -> list[tuple[str, ModelBlock]]:
    """(name of the run, network) in the order in which they are taught."""
    named = [(f"assistant_{number}", block) for number, block in enumerate(recipe.assistants, 1)]
    return [*named, (STUDENT, recipe.student)]


def _is_first(recipe: AssistantsRecipe, number: int) -> bool:
    """Whether the link with this number is taught by the original teacher."""
    return number == 0 or recipe.dense


def _taught_by(recipe: AssistantsRecipe, teacher: TeacherBlock, earlier: list[TeacherBlock]) -> dict[str, TeacherBlock]:
    """The teachers of a link: the one before it, or all before it. A lone teacher is called `teacher`, as in any recipe."""
    if not earlier:
        return {"teacher": teacher}
    if not recipe.dense:
        return {"teacher": earlier[-1]}
    return {"teacher": teacher, **{f"assistant_{number}": block for number, block in enumerate(earlier, 1)}}


def _objectives(recipe: AssistantsRecipe, teachers: Mapping[str, TeacherBlock]) -> Any:
    """The recipe's objectives; with several teachers each that asks one is there once for each, its weight divided among them."""
    if len(teachers) == 1 or not isinstance(recipe.objectives, list):
        return recipe.objectives
    found: list[ObjectiveBlock] = []
    for block in recipe.objectives:
        if not card_of(block.name, block.method).asks_teachers:
            found.append(block)
            continue
        found += [block.model_copy(update={"teacher": name, "weight": _divided(block.weight, len(teachers))}) for name in teachers]
    names = entry_names(block.method for block in found)
    return [block.model_copy(update={"name": str(name)}) for block, name in zip(found, names, strict=True)]


def _divided(weight: Any, count: int) -> Any:
    """A weight, or a weight that changes over the run, divided by the number of teachers."""
    if isinstance(weight, dict):
        name, settings = next(iter(weight.items()))
        return {name: {key: value / count if key in ("start", "end") else value for key, value in settings.items()}}
    return weight / count if isinstance(weight, (int, float)) else weight


def _runs(context: Context, recipe: AssistantsRecipe) -> Run:
    members: list[Member] = []
    summaries = []
    total = len(recipe.assistants) + 1 + recipe.plain
    for number, (name, block) in enumerate(networks(recipe)):
        members.append(_link(context, recipe, number, name, block))
        context.reporter.say(f"{name.replace('_', ' ')} ({number + 1} of {total})")
        summaries.append(series.obtain(context, members[-1]))
    if recipe.plain:
        members.append(_plain(context, recipe))
        context.reporter.say(f"{PLAIN.replace('_', ' ')} ({total} of {total})")
        summaries.append(series.obtain(context, members[-1]))
    entries = [series.entry(member, summary) for member, summary in zip(members, summaries, strict=True)]
    last = summaries[len(recipe.assistants)]
    summary = {
        **series.summed_up(recipe, entries, summaries, STUDENT),
        "series": "chain",
        **_figures(context, recipe, last, summaries[-1]),
        "aggregate": None,
        "reasons": {"aggregate": "the runs are different networks; seeds=5 runs the chain five times and sums up"},
    }
    return series.deliver(context, recipe, STUDENT, summary)


def _original(context: Context, recipe: AssistantsRecipe, number: int) -> tuple[TeacherBlock, nn.Module | None]:
    """The chain's teacher: as the recipe has it for the first link, which trains it where that is asked for; then as that left it."""
    block, live = recipe.teachers["teacher"], context.live.teachers.get("teacher")
    if block.train is None or number == 0:
        return block, live
    return lineage.graduate(series.folder(context, networks(recipe)[0][0]), "teacher", live, block.preprocess)


def _link(context: Context, recipe: AssistantsRecipe, number: int, name: str, block: ModelBlock) -> Member:
    """One network of the chain and what teaches it."""
    before = [run_name for run_name, _ in networks(recipe)[:number]]
    earlier = [lineage.graduate(series.folder(context, run_name), "student", None)[0] for run_name in before]
    original, module = _original(context, recipe, number)
    teachers = _taught_by(recipe, original, earlier)
    control = recipe.control if name == STUDENT else "none"  # what the chain is worth is asked of its end
    changes = {"student": block, "teachers": teachers, "objectives": _objectives(recipe, teachers), "control": control}
    student = context.live.student if name == STUDENT else None
    live = lineage.beside(context.live, {"teacher": module} if _is_first(recipe, number) else {}, student)
    shown = ["teacher", *before] if recipe.dense else [before[-1] if before else "teacher"]
    differs = {"student": in_words(block.model_dump()), "teacher": ", ".join(shown)}
    return Member(name, lineage.distillation(recipe, changes), differs, live)


def _plain(context: Context, recipe: AssistantsRecipe) -> Member:
    """The student and the teacher alone; its control is that of the chain's student, which has the same bits."""
    control = "none" if recipe.control == "none" else str(series.folder(context, STUDENT).path)
    original, module = _original(context, recipe, 1)
    link = lineage.distillation(recipe, {"teachers": {"teacher": original}, "control": control})
    differs = {"student": in_words(recipe.student.model_dump()), "teacher": "teacher"}
    return Member(PLAIN, link, differs, lineage.beside(context.live, {"teacher": module}, context.live.student))


def _figures(context: Context, recipe: AssistantsRecipe, last: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The student's models and gain, and what it gains over the one that the teacher taught alone."""
    models, transfer = dict(last["models"]), dict(last["transfer"])
    if recipe.plain:
        models[PLAIN] = plain["models"]["student"]
        found = [lineage.answers(series.folder(context, name), "student") for name in (STUDENT, PLAIN)]
        lineage.same_samples(found, context.rundir.path)
        (_, labels, ours), (_, _, theirs) = found
        transfer["over_plain"], transfer["over_plain_interval"] = lineage.gain(last, labels, ours, theirs)
    return {"models": models, "teachers": last["teachers"], "transfer": transfer}
