"""The control: the same student, initial bits, data order, views and number of steps, with nothing transferred. Kept and reused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from transfuse import models
from transfuse.core import ranks
from transfuse.core.types import DataSet, Model, ModelRequest, Samples, WeightedObjective
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.order import Order
from transfuse.engine.teacher_cache import key
from transfuse.errors import ModelError, RecipeError
from transfuse.jobs.context import Context
from transfuse.jobs.parts.networks import align, check_outputs, example, restore
from transfuse.jobs.rundir import RunDir, remove
from transfuse.jobs.train.training import Lesson, teach, views_of
from transfuse.models.weights import read_state
from transfuse.recipe.control import StudentRecipe, control_key_values


def control_key(recipe: StudentRecipe, data: DataSet, student: Model) -> str:
    """Of all that decides a control's bits: the resolved recipe without what is transferred, the data, the student's initial weights."""
    parts = {"train": data.train, "val": data.val, "test": data.test, "unlabelled": data.unlabelled}
    contents = {name: samples.fingerprint for name, samples in parts.items() if samples is not None}
    labels = {name: samples.labels for name, samples in parts.items() if samples is not None}
    network = student.network
    made = {
        "network": key.hash_teacher(network, tuple(example(student, data).shape[1:])),
        "modules": repr(network),  # tells dropout and its like, which neither weights nor outputs show
        "preprocess": student.preprocess.to_dict() if student.preprocess else None,
    }
    return key.combine({"recipe": control_key_values(recipe), "data": contents, "labels": key.hash_tensors(labels), "student": made})


def obtain(
    context: Context,
    recipe: StudentRecipe,
    data: DataSet,
    student: Model,
    pool: Samples,
    objectives: Sequence[WeightedObjective],
    order: Order | None = None,
) -> Model | None:
    """The trained control, by the recipe's `control`: reused, trained, taken from another run, or None.

    Args:
        context: the job.
        recipe: resolved.
        data: with all parts.
        student: a second copy of the untrained student; becomes the control.
        pool: the student's training pool, as far as the control sees it.
        objectives: label terms only.
        order: which samples of the pool each step sees; None: all of them, shuffled. The recipe and the data have to decide it.
    """
    folder = context.rundir.control
    if recipe.control == "none":
        context.say("control: none, so the report can't say what the transfer was worth")
        return None
    if recipe.control not in ("reuse", "train"):
        source = of_run(recipe.control)
        context.say(f"control: {source}")
        found = align(models.open_model(source, ModelRequest()), data, None)
        found.preprocess = found.preprocess or data.preprocess
        check_outputs(found, data, "control")
        return found
    here = (folder / "student.safetensors").exists()
    ranks.barrier()  # all have looked before the first one writes
    if here:
        return restore(student, folder / "student.safetensors")
    stored = Path(recipe.cache.dir) / "controls" / control_key(recipe, data, student)
    if recipe.control == "reuse" and ranks.agreed("yes" if is_stored(stored) else "no") == "yes":
        if ranks.rank() == 0:
            temporary = folder.with_name(".control.tmp")  # renamed once it is whole: a run may be killed while it copies
            remove(temporary)
            shutil.copytree(stored, temporary)
            remove(folder)
            temporary.rename(folder)
        ranks.barrier()
        trained = json.loads((folder / "student.json").read_text(encoding="utf-8")).get("created", "earlier")
        context.say(f"control: reused, the same student was trained from labels {trained}")
        return restore(student, folder / "student.safetensors")
    if ranks.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    lesson = Lesson("control", pool, objectives, recipe.train, recipe.seed, folder / "metrics.jsonl", order=order)
    outcome = teach(context, student, data, lesson, views_of(recipe.augment))
    context.keep("seconds.control", outcome.seconds)
    if ranks.rank() == 0:
        about = {"stopped": outcome.stopped, "best_step": outcome.best_step, "created": f"on {date.today():%Y-%m-%d}"}
        models.save_model(student, folder / "student.safetensors", about)
        Checkpoints(context.rundir.checkpoints / "control").clear()
        _store(context, folder, stored)
    ranks.barrier()
    return student


def is_stored(stored: Path) -> bool:
    """Whether a whole control lies in this folder of the cache; what was damaged there counts as absent and is trained again."""
    try:
        about = json.loads((stored / "student.json").read_text(encoding="utf-8"))
        return isinstance(about, dict) and bool(read_state(stored / "student.safetensors", trusted=False))
    except (OSError, ValueError, ModelError):
        return False


def _store(context: Context, folder: Path, stored: Path) -> None:
    """Copies the control into the cache; whoever comes second keeps the first. A cache without room costs the run nothing."""
    if is_stored(stored):
        return
    temporary = stored.with_name(f".{stored.name}.{os.getpid()}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, temporary)
        if stored.exists() and not is_stored(stored):
            remove(stored)
        temporary.rename(stored)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not is_stored(stored):  # else another process was faster
            context.say(f"control: can't be kept in {stored.parent} for other runs; the next one trains its own")


def of_run(path: str) -> str:
    """The model source of another run's control, or of its student where it has none.

    Raises:
        RecipeError: no finished run lies there.
    """
    run = RunDir(path)
    if not run.student.exists():
        fix = "choose reuse, train, none, or the folder of a finished run"
        raise RecipeError(f"{path} is not the folder of a finished run", where="control", fix=fix)
    return f"run:{path}#control" if (run.control / "student.safetensors").exists() else f"run:{path}"


def stopped_note(name: str, outcome: Any) -> str | None:
    """A sentence on a training run that ended early."""
    return f"{name} stopped early: {outcome.stopped}" if outcome.stopped else None
