"""transfuse export RUN: opens a finished run, or any model beside data, and ships it in the formats that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfuse import data as sources
from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import DataRequest, DataSet, Model
from transfuse.errors import ExportError, ModelError, RunError, TransfuseError
from transfuse.jobs.compare import rewrite
from transfuse.jobs.context import Context, Live
from transfuse.jobs.deliver.export import Settings, Shipment, of_job, refuse, ship, writing
from transfuse.jobs.deliver.kept import kept_shipment
from transfuse.jobs.parts.loading import open_anything
from transfuse.jobs.parts.networks import check_outputs
from transfuse.jobs.prepare import domains, opening, tasks
from transfuse.jobs.rundir import RunDir
from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.load import load
from transfuse.recipe.schema import Recipe
from transfuse.recipe.together import TogetherRecipe


def run(
    source: str | Path,
    targets: Sequence[Settings],
    data: Any = None,
    out: str | Path | None = None,
    trusted: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Path]:
    """Ships a student.

    Args:
        source: a run folder, or a model source string, which needs `data`.
        targets: of the recipe's key `export`, validated.
        data: in place of the run's own: a source string, or live data as in `distill`.
        out: the folder; None: RUN/exports. One target is written into the folder itself, several each into one of its own.
        trusted: the model's file may be unpickled.
        reporter: who is told.

    Returns:
        Target -> the file that is shipped.

    Raises:
        TransfuseError: the run can't be read, a target can't be written, or what was written doesn't pass.
    """
    path = Path(source).expanduser()
    if ":" not in str(source) and not path.exists():
        fix = "give the folder that a job wrote (its `out`), or a model source such as file:net.safetensors (transfuse ls models)"
        raise RunError("no such run folder", where=str(source), fix=fix)
    rundir = RunDir(path) if path.is_dir() else None
    context = Context(rundir or RunDir(out or "."), reporter or Silent(), live=Live(data=data if not isinstance(data, str) else None))
    if out is None and rundir is None:
        raise ExportError("where should the files go?", where="out", fix="name a folder: out=FOLDER")
    shipment = of_run(rundir, data, context) if rundir is not None else of_model(str(source), data, trusted, context)
    names = [next(iter(entry)) for entry in targets]
    folders = {name: _folder(rundir, out, name, alone=len(names) == 1) for name in names}
    files, failed = {}, []
    for entry in targets:
        name, settings = next(iter(entry.items()))
        try:
            verdict = ship(shipment, name, settings, folders[name], context)
            files[name] = folders[name] / verdict["file"]
        except TransfuseError as error:
            if len(names) > 1:
                context.say(f"export {name}: {error.what}")
            failed.append(error)
    if rundir is not None and out is None:
        rewrite(rundir.path)  # report and card say what was shipped
    refuse(failed)
    return files


def _folder(rundir: RunDir | None, out: str | Path | None, name: str, alone: bool) -> Path:
    """Where a target goes; somebody else's files are left alone.

    Raises:
        ExportError: the folder holds something else than an export, or can't be looked into.
    """
    if out is None:
        assert rundir is not None
        return rundir.exports / name
    folder = Path(out).expanduser() if alone else Path(out).expanduser() / name
    with writing(folder):
        foreign = folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "verify.json").exists()))
    if foreign:
        raise ExportError("holds other files than an export", where=str(folder), fix="name an empty or new folder with out=FOLDER")
    return folder


def of_run(rundir: RunDir, data: Any, context: Context) -> Shipment:
    """A finished run's student, on the run's own data or the given ones.

    Raises:
        RunError: unfinished, or changed by hand so that its files don't go together.
        ModelError: no student, or one that can't be rebuilt.
    """
    summary = rundir.read_summary()
    task = summary.get("task")
    if task not in ("classification", "multilabel", "regression"):
        raise RunError(f"its task is {task!r}", where=str(rundir.summary), fix="the file was changed by hand: put it back")
    model = open_anything(f"run:{rundir.path}")
    if model.preprocess is None:
        raise RunError("student.json says no preprocess", where=str(rundir.path), fix="the file was changed by hand: put it back")
    recipe = load(rundir.resolved)
    live = any(block.source == "live" for block in recipe.data_blocks.values())
    if data is None and live:
        return kept_shipment(rundir, model, task)
    opened = _open_data(recipe, data, context)
    if opened.task != task or (model.classes is not None and opened.classes and model.classes != opened.classes):
        what = f"the student answers {task} on {_some(model.classes)}, the data are {opened.task} on {_some(opened.classes)}"
        raise RunError(what, where=str(rundir.path), fix="student.json or the data were changed since: give the data it learnt from")
    try:
        check_outputs(model, opened, "student")
    except ModelError as error:
        raise RunError(error.what, where=str(rundir.path), fix="student.json or the data were changed since the training") from error
    return of_job(model, opened)


def _open_data(recipe: Recipe, data: Any, context: Context) -> DataSet:
    """The recipe's data, or others in their place with the recipe's splits."""
    by_name = isinstance(data, Mapping) and {*data} <= {key.rpartition(".")[2] for key in recipe.data_blocks}
    if by_name:  # live sets of a job on several, which its context holds
        data = None
    if isinstance(recipe, AdaptRecipe):
        if data is not None:
            block = recipe.target.model_copy(update={"source": data if isinstance(data, str) else "live"})
            return sources.open_data(data, opening.request_of(block, {"student": recipe.student}))
        return domains.open_both(recipe, context).data
    if isinstance(recipe, TogetherRecipe) and data is None:
        return tasks.open_sets(recipe, context).target
    block: Any = getattr(recipe, type(recipe).data_keys[-1], None)
    if block is None:
        raise ExportError("the run's recipe names no data", where=str(context.rundir.resolved), fix="give them: data=SOURCE")
    shown: dict[str, Any] = {key: getattr(recipe, key) for key in ("student", "model") if getattr(recipe, key, None) is not None}
    shown |= {**getattr(recipe, "teachers", {}), **getattr(recipe, "peers", {})}
    given = block.source if data is None else data
    block = block.model_copy(update={"source": given if isinstance(given, str) else "live"})
    return sources.open_data(given, opening.request_of(block, shown))


def of_model(source: str, data: Any, trusted: bool, context: Context) -> Shipment:
    """Any model beside data whose classes are its outputs.

    Raises:
        ExportError: no data.
        ModelError: it can't be opened, or its outputs aren't the data's classes.
    """
    if data is None:
        fix = "name them: data=images:./photos (transfuse ls data); a run folder knows its own"
        raise ExportError("there are no data to run the files on", where="data", fix=fix)
    model = open_anything(source, trusted)
    if model.module is None:
        raise ModelError("a table of predictions can't be exported: there is no network", where=source)
    size = model.preprocess.size if model.preprocess is not None else None
    opened = sources.open_data(data, DataRequest(size=max(size) if size else None))
    for note in opened.notes:
        context.say(note)
    model = replace(_fitted(model, opened), preprocess=model.preprocess or opened.preprocess)
    check_outputs(model, opened, source)
    return of_job(model, opened)


def _fitted(model: Model, data: DataSet) -> Model:
    from transfuse.models import fit_to_classes

    return fit_to_classes(model, data.classes, None)


def _some(classes: Sequence[str] | None) -> str:
    return ", ".join(list(classes or ["unnamed outputs"])[:4]) + (", …" if len(classes or ()) > 4 else "")
