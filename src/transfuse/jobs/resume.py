"""transfuse resume: goes on with an interrupted run from its folder; the result has the same bits as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.engine import parallel
from transfuse.errors import RunError
from transfuse.jobs.compare import drawn, rewrite
from transfuse.jobs.context import Context, Live, Run
from transfuse.jobs.deliver import export
from transfuse.jobs.prepare.opening import reopen
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.runner import runner_of
from transfuse.jobs.tracking import tell_summary
from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.eval import EvalRecipe
from transfuse.recipe.extract import ExtractRecipe
from transfuse.recipe.finetune import FinetuneRecipe
from transfuse.recipe.fuse import FuseRecipe
from transfuse.recipe.load import load, values_of
from transfuse.recipe.schema import TaughtRecipe
from transfuse.recipe.together import TogetherRecipe

OneRun = TaughtRecipe | AdaptRecipe | EvalRecipe | ExtractRecipe | FinetuneRecipe | FuseRecipe | TogetherRecipe
"""Recipes of jobs that leave one run, whose live objects are known by name."""


def resume(path: str | Path, reporter: Reporter | None = None, live: Live | None = None) -> Run:
    """Finishes a run.

    Args:
        path: its folder.
        reporter: who is told; None: nobody.
        live: the objects that the run was started with, where it was started from Python.

    Raises:
        RunError: no such run, it is finished, or it needs live objects that were not given.
    """
    context = reopen(path, reporter, live)
    recipe = load(context.rundir.resolved)
    if over(context.rundir):
        raise RunError("the run is finished", where=str(path), fix=f"look at {context.rundir.report}")
    context.track = tuple(recipe.track)
    if delivered(context.rundir):
        return draw(context)
    for key in left_auto(values_of(recipe)):
        raise RunError(f"{key} is auto, so the file was changed", where=str(context.rundir.resolved), fix="write the value that it had")
    missing = missing_live(recipe, context.live) if isinstance(recipe, OneRun) else []
    if missing:
        named = ", ".join(f"{key}=..." for key in missing)
        fix = f"from Python: transfuse.resume({str(path)!r}, {named})"
        raise RunError(f"the run was started with live objects: {', '.join(missing)}", where=str(path), fix=fix)
    return runner_of(recipe).resume(context, recipe)


def over(rundir: RunDir) -> bool:
    """Whether nothing is left to do: figures and pages are written, and every file that the recipe exports has a verdict."""
    return delivered(rundir) and drawn(rundir.path)


def delivered(rundir: RunDir) -> bool:
    """Whether at most the pages are missing.

    With seeds no student is the one, so each run exports its own into its own folder.
    """
    if not rundir.finished:
        return False
    recipe = load(rundir.resolved)
    if recipe.seed_list():
        return all(over(RunDir(rundir.path / entry["path"])) for entry in rundir.read_summary()["runs"])
    return not export.unshipped(getattr(recipe, "export", []), rundir.exports)


def draw(context: Context) -> Run:
    """The end of a run that was stopped behind its figures: pages need neither data nor networks, and nobody is asked again."""
    run = Run(context.rundir.path)
    ranks.barrier()  # a process that finds the pages written before it has looked would call the run finished
    if ranks.rank() == 0:
        rewrite(run.path)
        tell_summary(context.trackers, run.summary)
        context.trackers.close()
        context.reporter.result(run.summary, run.path)
    parallel.stop()
    return run


def left_auto(values: Any, key: str = "") -> Iterator[str]:
    """Keys of a resolved recipe that are undecided; taps may be, since they are found anew by the same rule."""
    if isinstance(values, dict):
        for name, value in values.items():
            if not str(name).endswith("_tap") and not (name == "how" and isinstance(value, list)):  # rules have an auto of their own
                yield from left_auto(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from left_auto(value, key)
    elif values == "auto":
        yield key


def missing_live(recipe: OneRun, live: Live) -> list[str]:
    """Recipe keys whose live object is not at hand."""
    missing = missing_data(recipe, live)
    trained = recipe.model if isinstance(recipe, (ExtractRecipe, FinetuneRecipe)) else getattr(recipe, "student", None)
    if trained is not None and trained.source.startswith("live") and live.student is None:
        missing.append("student")
    missing += [
        name if name == "teacher" else f"teachers.{name}"
        for name, block in getattr(recipe, "teachers", {}).items()
        if block.source.startswith("live") and name not in live.teachers
    ]
    if isinstance(recipe, FuseRecipe):
        taught = [name for name, block in recipe.sources.items() if block.source.startswith("live") and name not in live.teachers]
        missing += [f"teachers.{name}" for name in taught]
    if isinstance(recipe, EvalRecipe):
        measured = [name for name, block in recipe.models.items() if block.source.startswith("live") and name not in live.models]
        missing += [f"teachers.{name}" for name in measured]
    peers = getattr(recipe, "peers", {})
    missing += [f"peers.{name}" for name, block in peers.items() if block.source.startswith("live") and name not in live.peers]
    listed = getattr(recipe, "objectives", None)
    blocks = listed if isinstance(listed, list) else []
    if any(block.method.startswith("live") and block.name not in live.objectives for block in blocks):
        missing.append("objectives")
    return missing


def missing_data(recipe: OneRun, live: Live) -> list[str]:
    """["data"] where live data are not at hand: one object, or of jobs on several sets a mapping by name (source, target, others)."""
    if isinstance(recipe, (AdaptRecipe, TogetherRecipe)):
        given = live.data if isinstance(live.data, dict) else {}
        blocks = recipe.data_blocks.items()
        lacking = any(block.source.startswith("live") and key.rpartition(".")[2] not in given for key, block in blocks)
    else:
        lacking = recipe.data is not None and recipe.data.source.startswith("live") and live.data is None
    return ["data"] if lacking else []
