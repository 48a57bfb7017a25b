"""transfuse fuse: recipe -> data -> sources -> ways on validation -> the best one -> a student, where that is too large -> report.

Sources are asked once, and what they say is remembered, so that trying another way costs no forward pass. Every stage that takes long
leaves a file and is skipped where its file is there; resuming a run is running it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from transfuse import data as data_sources
from transfuse import models
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet
from transfuse.data import check as data_check
from transfuse.errors import RecipeError
from transfuse.evaluate import metrics
from transfuse.fusion.output_rule import labelled
from transfuse.jobs import amalgamate
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.fusing import alone as fuse_alone
from transfuse.jobs.fusing import finish as fuse_finish
from transfuse.jobs.fusing import sources as fuse_sources
from transfuse.jobs.fusing import student as fuse_student
from transfuse.jobs.fusing import ways as fuse_ways
from transfuse.jobs.fusing.panel import Panel, Way
from transfuse.jobs.fusing.sources import Source
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.parts.networks import count_outputs, open_student
from transfuse.jobs.prepare import opening
from transfuse.recipe.fuse import FuseRecipe, WayBlock
from transfuse.recipe.resolve import resolve, sentences
from transfuse.recipe.ways import SINGLE

ONE_PROCESS = ("a fusion runs in one process", "start it as one process; a student can be taught by several with transfuse distill")


@dataclass
class Opened:
    """A fusion that is ready: the resolved recipe and why it became so, its data and its sources."""

    recipe: FuseRecipe
    reasons: dict[str, str]
    data: DataSet
    sources: Mapping[str, Source]


def run(recipe: FuseRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new fusion.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; sources are its teachers.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    if amalgamate.asked_for(recipe):
        return amalgamate.run(recipe, reporter, recipe_text, live)
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    try:
        opened = prepare(recipe, context)
    except fuse_sources.SomeClasses as error:
        return amalgamate.run(as_amalgamation(recipe, error, context), reporter, recipe_text, live)
    opening.lay_out(context, recipe, recipe_text, opened.recipe, opened.reasons)
    return _run(context, opened, began)


def resume(context: Context, recipe: FuseRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    if amalgamate.asked_for(recipe):
        return amalgamate.resume(context, recipe)
    opening.refuse_several_processes(*ONE_PROCESS)
    began = time.monotonic()
    data = open_data_of(recipe, context)
    return _run(context, Opened(recipe, {}, data, fuse_sources.open_all(recipe, data, context)), began)


def check(recipe: FuseRecipe, reporter: Reporter, live: Live) -> tuple[FuseRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    if amalgamate.asked_for(recipe):
        return amalgamate.check(recipe, reporter, live)
    context = opening.new_context(recipe, reporter, live)
    try:
        opened = prepare(recipe, context)
    except fuse_sources.SomeClasses as error:
        return amalgamate.check(as_amalgamation(recipe, error, context), reporter, live)
    return opened.recipe, opened.reasons


def as_amalgamation(recipe: FuseRecipe, found: fuse_sources.SomeClasses, context: Context) -> FuseRecipe:
    """What `auto` means where a source knows some of the classes only.

    Raises:
        SomeClasses: the recipe names other ways, or has no student to learn all classes.
    """
    if recipe.how != "auto" or recipe.student is None:
        raise found
    context.say(f"how: amalgamate, the only way here: {found.where}: {found.what}")
    return recipe.model_copy(update={"how": [WayBlock(name="amalgamate")]})


def prepare(recipe: FuseRecipe, context: Context) -> Opened:
    """Opens and checks all that the job needs, without writing anything.

    Raises:
        TransfuseError: the job would be refused.
    """
    opening.refuse_several_processes(*ONE_PROCESS)
    context.rundir.refuse_occupied()
    data = open_data_of(recipe, context)
    for warning in data_check.check(data, train_labels=recipe.student is not None):
        context.say(warning)
    if recipe.select_by is not None:
        metrics.higher_is_better(data.task, recipe.select_by)
    fuse_sources.refuse_unlabelled(data, int(labelled(data.val.labels).sum()))
    sources = fuse_sources.open_all(recipe, data, context)
    outputs, student = data.outputs, None
    if recipe.student is not None:
        student = open_student(recipe.student, data, recipe.seed, context.live.student)
        outputs = count_outputs(student, data)
        export.rehearse(recipe.export, student, data)
    fuse_ways.refuse_settings(recipe, data)
    decided, reasons = fuse_ways.decide(recipe, data, sources)
    fuse_alone.refuse(decided, data, sources)
    fuse_sources.refuse_or_say_what_ships(recipe, sources, context)
    facts = opening.facts_about(data, [part for part in (data.train, data.unlabelled) if part is not None], context, outputs)
    if recipe.student is None:
        decided = decided.model_copy(update={"objectives": [fuse_student.without_labels(data)]})  # nobody's, and asks for no labels
    resolved, more = resolve(decided, replace(facts, **fuse_student.teachers_of(decided, data, sources)))
    assert isinstance(resolved, FuseRecipe)
    if student is not None:
        fuse_student.refuse_objectives(resolved, data, student, fuse_student.taught_by(resolved, student, data, sources), context.live)
    reasons = {**more, **reasons}
    if recipe.student is None:  # what is about a student's training, and how answers are kept for it, is nobody's concern
        reasons = {key: why for key, why in reasons.items() if key.partition(".")[0] not in ("train", "augment", "objectives")}
    for line in sentences(resolved, {key: why for key, why in reasons.items() if key != "how"}):
        context.reporter.say(line)
    if "how" in reasons:
        context.reporter.say(f"how = {reasons['how']}")
    return Opened(resolved, reasons, data, sources)


def open_data_of(recipe: FuseRecipe, context: Context) -> DataSet:
    """The recipe's data, at the size of the largest input; sources whose files are not there are not asked for theirs.

    Training labels are needed for a student alone.
    """
    asked = {**fuse_sources.present(recipe), **({"student": recipe.student} if recipe.student is not None else {})}
    given = context.live.data if context.live.data is not None else recipe.data.source
    request = replace(opening.request_of(recipe.data, asked), train_labels=recipe.student is not None)
    data = data_sources.open_data(given, request)
    for note in data.notes:
        context.say(note)
    return data


def _run(context: Context, opened: Opened, began: float) -> Run:
    context.say(split_ready(opened.data))
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, opened, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, opened: Opened, began: float) -> Run:
    recipe, data = opened.recipe, opened.data
    oracles = {
        name: Oracle(name, source.model, data, recipe.cache, "fp32", context.device, context.say) for name, source in opened.sources.items()
    }
    panel = Panel(data, opened.sources, oracles, recipe.select_by or metrics.primary(data.task)[0])
    singles = fuse_ways.singles(panel)
    for way in singles.values():
        context.say(fuse_ways.told(panel, way))
    tried = fuse_ways.try_all(context, recipe, panel)
    chosen = choose(context, recipe, panel, singles, tried)
    plain = fuse_ways.plain_ensemble(context, recipe, panel, tried)
    found = fuse_finish.Found(panel, singles, tried, chosen, plain)
    if (student := fuse_student.obtain(context, recipe, panel, chosen, opened.reasons)) is not None:
        found.student, found.joint = student.model, student.joint
    elif chosen.shipped is None:
        fuse_student.write_table(context, panel, chosen)
    elif not context.rundir.student.exists():
        models.save_model(chosen.shipped, context.rundir.student, {"way": chosen.name})
    fuse_finish.evaluate(context, recipe, found, began)
    shipped = found.student or chosen.shipped
    failed = export.at_end(context, recipe.export, shipped, data) if shipped is not None else []
    finish.report(context)
    export.refuse(failed)
    return Run(context.rundir.path, shipped.network if shipped is not None else None)


def choose(context: Context, recipe: FuseRecipe, panel: Panel, singles: Mapping[str, Way], tried: Mapping[str, Way]) -> Way:
    """The way that is taken: the best on validation, within the budget unless a student will be made of it.

    Raises:
        RecipeError: every way failed.
    """
    assert isinstance(recipe.how, list)
    names = [way.name for way in recipe.how]
    candidates = [*(singles.values() if SINGLE in names else []), *tried.values()]
    fuse_ways.measure(recipe, panel, [*singles.values(), *tried.values()])
    if names == ["distill"]:
        return Way("distill")
    possible = [way for way in candidates if way.why is None and way.score is not None]
    if not possible:
        reasons = "\n".join(f"  {way.name}: {(way.why or 'no score').splitlines()[0]}" for way in candidates)
        raise RecipeError(f"none of the ways to fuse is possible here:\n{reasons}", "how", "choose others; transfuse ls ways lists them")
    if recipe.student is None and fuse_ways.limited(recipe.budget):
        within = [way for way in possible if fuse_ways.fits(way, recipe.budget)]
        if not within:
            context.say("no way fits the budget, and there is no student to distil into: the best one is taken, over the budget")
        possible = within or possible
    taken = fuse_ways.best(panel, possible)
    assert taken is not None
    if len(candidates) > 1:
        context.say(f"taken: {taken.name}, {panel.metric} {taken.score:.4f} on validation")
    return taken
