"""Jobs of several runs: a parent folder with ordinary run folders inside, made one after the other and summed up at the end.

A run that is finished is skipped and one that is half-written is resumed, so going on with a series is running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import Progress
from transfuse.engine import parallel
from transfuse.errors import RunError, TransfuseError
from transfuse.evaluate import budget
from transfuse.evaluate.aggregate import over_runs
from transfuse.jobs import export as export_run
from transfuse.jobs import resume
from transfuse.jobs.context import Context, Live, Run, read_figures
from transfuse.jobs.deliver import export
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.opening import commit_here, describe
from transfuse.jobs.rundir import RunDir, default_out, environment, remove, take_student, write_json, write_text
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import dump, load
from transfuse.recipe.schema import Recipe
from transfuse.report import series_card, series_page
from transfuse.report.series import one_line

ONE_PROCESS = ("a job of several runs runs in one process", "start it as one process, or run its runs one by one with torchrun")
RUNS = "runs"  # the folder of the run folders
GIVEN = "recipe.given.yaml"  # the recipe with some `auto` left to each run
_SERIES_OWN = ("job", "seed", "seeds", "out", "export")
_OF_A_RUN = ("models", "teachers", "transfer", "teacher_forwards", "seconds", "extract", "budget")


@dataclass
class Member:
    """One run of a series.

    Attributes:
        name: of its folder.
        recipe: what it runs; where it writes is the series' to say.
        differs: recipe key -> value, of what tells it from the others.
        live: objects in place of strings; None: those of the series.
    """

    name: str
    recipe: Recipe
    differs: Mapping[str, Any]
    live: Live | None = None


class Once:
    """A reporter that passes on each note once, however many runs have it to say.

    Args:
        reporter: who is told.
    """

    def __init__(self, reporter: Reporter):
        self._reporter, self._said = reporter, set[str]()

    def say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._reporter.say(text)

    def progress(self, progress: Progress) -> None:
        self._reporter.progress(progress)

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        self._reporter.result(summary, path)


@dataclass
class Within:
    """The reporter of one run of a series: trainings go by the run's name, and a result is one line.

    Attributes:
        context: of the series.
        name: of the run.
    """

    context: Context
    name: str

    def say(self, text: str) -> None:
        self.context.reporter.say(text)

    def progress(self, progress: Progress) -> None:
        self.context.reporter.progress(replace(progress, name=f"{self.name} {progress.name}"))

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        self.context.reporter.say(f"{self.name}: {one_line(summary)}")


class Checking:
    """The reporter while a series is checked: what is said then is kept for the parent's report."""

    def __init__(self, context: Context):
        self._context = context

    def say(self, text: str) -> None:
        self._context.say(text)

    def progress(self, progress: Progress) -> None: ...

    def result(self, summary: Mapping[str, Any], path: Path) -> None: ...


def begin(
    recipe: Recipe, reporter: Reporter | None, recipe_text: str | None, live: Live | None, given: Callable[[Recipe], Recipe] | None = None
) -> tuple[Context, Recipe]:
    """Checks all that will be run and only then makes the parent folder: a refused series leaves nothing behind.

    Args:
        recipe: of the series, as the user wrote it.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings.
        given: from the resolved recipe, one with some `auto` left to each run; kept for `go_on`.

    Returns:
        The series' context, and its recipe with every `auto` decided.

    Raises:
        TransfuseError: the series would be refused.
    """
    opening.refuse_several_processes(*ONE_PROCESS)
    out = recipe.out or default_out(recipe.job)
    context = Context(RunDir(out), Once(reporter or Silent()), parallel.start(), live or Live())
    context.rundir.refuse_occupied()
    resolved, reasons = runner_of(recipe).check(recipe.model_copy(update={"out": out}), Checking(context), context.live)
    with context.rundir.beginning():
        write_text(context.rundir.recipe, recipe_text if recipe_text is not None else dump(recipe))
        if given is not None:
            write_text(context.rundir.path / GIVEN, dump(given(resolved)))
        write_json(context.rundir.env, environment(recipe.seed, describe(context.device), commit_here()))
        write_json(context.rundir.path / "reasons.json", {"auto": reasons, "notes": context.notes})
        write_text(context.rundir.resolved, dump(resolved, reasons))  # last: a folder that has it can be resumed
    return context, resolved


def go_on(context: Context) -> None:
    """Prepares the context of a series that is resumed.

    Raises:
        RecipeError: by several processes.
    """
    opening.refuse_several_processes(*ONE_PROCESS)
    context.reporter = Once(context.reporter)


def kept_recipe(context: Context) -> Recipe:
    """The recipe that `begin` was given to keep.

    Raises:
        RunError: the file is gone.
    """
    path = context.rundir.path / GIVEN
    if not path.exists():
        raise RunError("is missing, so the recipes of the other runs are not known", where=str(path), fix="start the job again")
    return load(path)


def decided(recipe: Recipe, first: Recipe, reasons: Mapping[str, str], own: Sequence[str]) -> tuple[Recipe, dict[str, str]]:
    """The series' recipe with the `auto` of one of its runs decided, and why.

    Args:
        recipe: of the series.
        first: the resolved recipe of a run.
        reasons: why each `auto` of it became what it is.
        own: keys in which the series is not like that run.
    """
    shared = [key for key in type(recipe).model_fields if key in type(first).model_fields and key not in (*_SERIES_OWN, *own)]
    resolved = recipe.model_copy(update={key: getattr(first, key) for key in shared})
    heads = {*shared, *(["teacher"] if "teachers" in shared else [])}
    return resolved, {key: reason for key, reason in reasons.items() if key.split(".", maxsplit=1)[0] in heads}


def single(recipe: Recipe, out: Path) -> Recipe:
    """The recipe of one run, with its folder."""
    return recipe.model_copy(update={"seeds": None, "out": str(out)})


def folder(context: Context, name: str) -> RunDir:
    """The folder of one run of a series."""
    return RunDir(context.rundir.path / RUNS / name)


def obtain(context: Context, member: Member, reporter: Reporter | None = None) -> dict[str, Any]:
    """The summary of one run: of one that is over, of one that is resumed, or of a new one.

    Raises:
        TransfuseError: the run failed.
        KeyboardInterrupt: interrupted; run and series can be resumed.
    """
    rundir, inner = folder(context, member.name), reporter or Within(context, member.name)
    live = member.live or context.live
    if not resume.over(rundir):
        if rundir.resolved.exists():
            resume.resume(rundir.path, inner, live)
        else:
            remove(rundir.path)  # stopped before it began, or absent
            recipe = single(member.recipe, rundir.path)
            runner_of(recipe).run(recipe, inner, None, live)
    return rundir.read_summary()


def run_all(context: Context, members: Sequence[Member]) -> list[dict[str, Any]]:
    """Runs what isn't over, in order, and gives all summaries."""
    summaries = []
    for number, member in enumerate(members, 1):
        if not resume.over(folder(context, member.name)):
            context.reporter.say(f"{member.name} ({number} of {len(members)})")
        summaries.append(obtain(context, member))
    return summaries


def entry(member: Member, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's line in the parent's summary: where it is, what it differs in, and the figures of its own summary."""
    figures = {key: summary[key] for key in _OF_A_RUN if key in summary}
    return {"name": member.name, "path": f"{RUNS}/{member.name}", "state": "finished", "differs": dict(member.differs), **figures}


def summed_up(
    recipe: Recipe, entries: Sequence[Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]], shipped: str | None = None
) -> dict[str, Any]:
    """The part of a parent's summary that all series have.

    Args:
        recipe: of the series.
        entries: all of its runs.
        summaries: of the finished ones.
        shipped: the run whose student is handed on, and whose budget counts; None: each run's does, for none is the one.
    """
    budgets = {entry["name"]: entry.get("budget") or {} for entry in entries}
    seconds = [entry.get("seconds") or {} for entry in entries]
    return {
        "job": recipe.job,
        "task": summaries[0]["task"],
        "seed": recipe.seed,
        "primary": summaries[0]["primary"],
        "teacher_forwards": sum(entry.get("teacher_forwards") or 0 for entry in entries),
        "seconds": {name: round(sum(found.get(name) or 0.0 for found in seconds), 3) for name in ("train", "total")},
        "budget": budget.over_runs(list(budgets.values())) if shipped is None else budgets[shipped],
        "runs": list(entries),
    }


def aggregated(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"aggregate": mean, spread and interval over runs}."""
    return {"aggregate": over_runs(summaries)}


def ship(context: Context, name: str) -> None:
    """Copies the student of one run into the parent folder, other tasks' heads included, so that `run:PARENT` is that student."""
    take_student(folder(context, name).student, context.rundir.student)


def targets(recipe: Recipe) -> Sequence[export.Settings]:
    """What a recipe exports; a job that ships no network has no such key."""
    return getattr(recipe, "export", [])


def deliver(context: Context, recipe: Recipe, name: str, summary: Mapping[str, Any]) -> Run:
    """The end of a series that ships one run's student: its weights, what the recipe exports, summary, report and card.

    Raises:
        TransfuseError: an export doesn't pass; everything else is written first.
    """
    ship(context, name)
    failed = _exported(context, recipe, name)
    run = finish(context, summary)
    export.refuse(failed)
    return run


def _exported(context: Context, recipe: Recipe, name: str) -> list[TransfuseError]:
    """Ships what is not shipped yet; gives what went wrong, for `refuse`: data that have moved cost no series its summary."""
    missing = export.unshipped(targets(recipe), context.rundir.exports)
    if not missing:
        return []
    try:
        shipment = export_run.of_run(folder(context, name), context.live.data, context)
    except TransfuseError as error:
        context.say(f"export: {error.what}")
        return [error]
    return export.ship_all(context, missing, shipment)


def finish(context: Context, summary: Mapping[str, Any]) -> Run:
    """Writes the parent's summary, report and card."""
    path = context.rundir.path
    write_json(path / "reasons.json", {"auto": read_figures(path / "reasons.json").get("auto", {}), "notes": context.notes})
    write_json(context.rundir.summary, summary)
    series_page.write(path)
    series_card.write(path)
    context.reporter.result(summary, path)
    return Run(path)
