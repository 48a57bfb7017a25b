"""The beginning of a job: folder, data, facts, resolved recipe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from transfuse import data as sources
from transfuse.core import ranks
from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import DataRequest, DataSet, Model, Samples
from transfuse.data import check
from transfuse.engine import parallel, precision, trackers
from transfuse.engine.loader import free_memory_bytes, is_labelled
from transfuse.errors import RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context, Live, read_figures
from transfuse.jobs.deliver import export
from transfuse.jobs.parts import peers
from transfuse.jobs.parts.initialisation import initialise
from transfuse.jobs.parts.networks import count_outputs, open_student, open_teacher, sizes_asked
from transfuse.jobs.parts.terms import card_of
from transfuse.jobs.prepare.refusals import one_answer, other_splits, refuse
from transfuse.jobs.rundir import RunDir, default_out, environment, write_json, write_text
from transfuse.jobs.train import control
from transfuse.recipe.blocks import DataBlock, ModelBlock
from transfuse.recipe.facts import Facts
from transfuse.recipe.load import dump
from transfuse.recipe.resolve import resolve, sentences
from transfuse.recipe.schema import DistillRecipe, Recipe


@dataclass
class Opened:
    """A job that is ready to train: everything was opened and nothing was refused.

    Attributes:
        recipe: resolved.
        reasons: why each `auto` became what it is, by recipe key.
        data: opened, split and checked.
        teachers: opened, in the data's class order; those that are trained here have their initial weights.
    """

    recipe: DistillRecipe
    reasons: dict[str, str]
    data: DataSet
    teachers: dict[str, Model]


def prepare(recipe: DistillRecipe, context: Context) -> Opened:
    """Opens and checks all that a job needs, without writing anything.

    Raises:
        TransfuseError: the job would be refused.
    """
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    data = open_data_of(recipe, context)
    for warning in check.check(data):
        context.say(warning)
    for block in (recipe.train, *(teacher.train for teacher in recipe.teachers.values())):
        if block is not None and block.stop.metric is not None:
            metrics.higher_is_better(data.task, block.stop.metric)
    if recipe.control not in ("reuse", "train", "none"):
        control.of_run(recipe.control)
    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    members = peers.open_peers(recipe, data, context.live)
    for name, model in {"student": student, **{f"peer '{name}'": model for name, model in members.items()}}.items():
        for note in model.notes:
            context.say(f"{name}: {note}")
    resolved, reasons = resolve(recipe, facts_of(recipe, data, context, count_outputs(student, data)))
    assert isinstance(resolved, DistillRecipe)
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    live = context.live.teachers
    teachers = {
        name: open_teacher(name, block, data, resolved.seed, live.get(name), block.train is not None)
        for name, block in resolved.teachers.items()
    }
    initialise(context, recipe.student, data, student, recipe.seed, teachers)
    peers.refuse_unfit(student, members, data)
    refuse(resolved, data, student, teachers, context.live)
    export.rehearse(resolved.export, student, data)
    answers = [one_answer(name, model, data) for name, model in teachers.items() if resolved.teachers[name].train is None]
    for warning in [*other_splits(resolved), *filter(None, answers)]:
        context.say(warning)
    return Opened(resolved, reasons, data, teachers)


def begin(recipe: DistillRecipe, reporter: Reporter | None, recipe_text: str | None, live: Live | None) -> tuple[Context, Opened]:
    """Prepares a new job and only then makes its folder: a refused job leaves nothing behind."""
    context = new_context(recipe, reporter, live)
    opened = prepare(recipe, context)
    lay_out(context, recipe, recipe_text, opened.recipe, opened.reasons)
    return context, opened


def new_context(recipe: Recipe, reporter: Reporter | None, live: Live | None) -> Context:
    """The context of a job that begins; nothing is written yet."""
    device = parallel.start()
    out = ranks.agreed(recipe.out or default_out(recipe.job))  # processes may start in different seconds
    for name in recipe.track:
        trackers.require(name)
    return Context(RunDir(out), reporter or Silent(), device, live or Live(), track=tuple(recipe.track))


def lay_out(context: Context, recipe: Recipe, recipe_text: str | None, resolved: Recipe, reasons: Mapping[str, str]) -> None:
    """Makes the run folder of a job that is ready, with what was asked for and what became of it."""
    if ranks.rank() == 0:
        with context.rundir.beginning():
            write_text(context.rundir.recipe, recipe_text if recipe_text is not None else dump(recipe))
            write_json(context.rundir.env, environment(recipe.seed, describe(context.device), commit_here()))
            write_json(context.rundir.path / "reasons.json", {"auto": dict(reasons), "notes": context.notes})
            write_text(context.rundir.resolved, dump(resolved))  # last: a folder that has it can be resumed
    ranks.barrier()


def refuse_several_processes(what: str, fix: str) -> None:
    """For jobs that run in one process, whether they begin or are gone on with; asked before the processes meet.

    Raises:
        RecipeError: torchrun has started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(what, where="torchrun", fix=fix)


def reopen(path: str | Path, reporter: Reporter | None, live: Live | None) -> Context:
    """The context of a run that is resumed."""
    rundir = RunDir(path)
    rundir.open()
    context = Context(rundir, reporter or Silent(), parallel.start(), live or Live())
    context.notes += read_figures(rundir.path / "reasons.json").get("notes", [])
    return context


def open_data_of(recipe: DistillRecipe, context: Context) -> DataSet:
    """The recipe's data source (or the live object in its place), opened and split."""
    return open_source(recipe.data, {"student": recipe.student, **recipe.teachers, **recipe.peers}, context)


def open_source(block: DataBlock, models: Mapping[str, ModelBlock], context: Context) -> DataSet:
    """A data source (or the live object in its place), opened and split for these models."""
    given = context.live.data if context.live.data is not None else block.source
    data = sources.open_data(given, request_of(block, models))
    for note in data.notes:
        context.say(note)
    return data


def request_of(block: DataBlock, models: Mapping[str, ModelBlock]) -> DataRequest:
    """What a data source is asked for; pictures without a size of their own are held at the largest that the models ask for."""
    size = block.size if isinstance(block.size, int) else None
    if size is None and block.source.startswith(("images:", "torchvision:")):
        size = max(sizes_asked(models), default=None)
    return DataRequest(
        unlabelled=block.unlabelled,
        val=block.split.val,
        test=block.split.test,
        split_seed=block.split.seed,
        labels_per_class=block.labels_per_class,
        size=size,
        task=block.task,
        unreadable=block.unreadable,
        fold=None if block.split.fold is None else (block.split.fold.number, block.split.fold.of),
    )


def facts_of(recipe: DistillRecipe, data: DataSet, context: Context, outputs: int) -> Facts:
    """What resolving needs to know; `outputs` are the student's: one or two where the data have two classes."""
    pool = [part for part in (data.train, data.unlabelled) if part is not None]
    tables = tuple(name for name, block in recipe.teachers.items() if block.source.startswith("predictions:"))
    return replace(facts_about(data, pool, context, outputs), teachers=tuple(recipe.teachers), peers=tuple(recipe.peers), tables=tables)


def facts_about(data: DataSet, pool: Sequence[Samples], context: Context, outputs: int) -> Facts:
    """Facts that any job has: of the data, the parts of its training pool, and the machine."""
    total, labelled = sum(map(len, pool)), sum(int(is_labelled(part.labels).sum()) for part in pool)
    on_gpu = context.device.type == "cuda"
    return Facts(
        task=data.task,
        modality=data.modality,
        n_train=total,
        n_labelled=labelled,
        n_unlabelled=total - labelled,
        n_classes=outputs,
        input_shape=data.input_shape,
        pool_bytes=sum(getattr(part, "bytes", 0) for part in pool),
        free_memory_bytes=torch.cuda.mem_get_info(context.device)[0] if on_gpu else free_memory_bytes(),
        device="cuda" if on_gpu else "cpu",
        bf16_units=precision.has_bf16_units(context.device),
        model_sizes=(max(data.input_shape[1:]),) if data.modality == "image" else (),
        has_cpp_compiler=precision.has_cpp_compiler(),
        cores=os.cpu_count() or 1,
        out=str(context.rundir.path),
        live_cards={name: card_of(objective) for name, objective in context.live.objectives.items()},
    )


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def commit_here() -> str | None:
    """The git commit of the working directory, for env.json; None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
