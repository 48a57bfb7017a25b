"""What a job refuses before it makes its folder: mistakes that would else be met after minutes of training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.engine.asked import asked_of, never_kept, of_two_views
from transfuse.engine.order import Order
from transfuse.engine.stages import plan
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.room import folder_bytes, in_words
from transfuse.engine.teacher_cache.shard import file_bytes
from transfuse.errors import DataError, ModelError, RecipeError, RunError, TransfuseError
from transfuse.jobs.context import Live
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.answers import Oracle, form_of, table_rows
from transfuse.jobs.parts.networks import device_of, example, with_head_of
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare.rehearsal import Circumstances, refuse_impossible
from transfuse.jobs.train.training import steps_of, views_of
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.load import load
from transfuse.recipe.schema import DistillRecipe

LOOKED_AT = 32  # validation samples that a teacher is tried on before training


def refuse(recipe: DistillRecipe, data: DataSet, student: Model, teachers: Mapping[str, Model], live: Live) -> None:
    """Looks at a resolved recipe, its data and its opened teachers; writes nothing.

    Raises:
        TransfuseError: augmentation that doesn't fit the pictures, a teacher that can't teach, objectives that find no features, can't
            work on them or whose stages leave no steps, a cache that can't be written or is too small.
    """
    refuse_augmentation(recipe.augment, data)
    for name, model in teachers.items():
        if recipe.teachers[name].train is None:
            refuse_speechless(f"teachers.{name}", model, data)
    assert isinstance(recipe.objectives, list)
    objectives = [terms.build(block, tuple(teachers), live.objectives) for block in recipe.objectives]
    asked = {name: with_head_of(student, model, data) for name, model in teachers.items()}
    connected, _ = terms.connected(objectives, student, asked, data, recipe.seed)
    refuse_gaps(connected, asked, data)
    order = Order(pool_size(data), min(recipe.train.batch_size, pool_size(data)), recipe.seed)
    plan(connected, steps_of(recipe.train, order))
    given = Circumstances(data, training_pool(data), order, recipe.train, recipe.augment, recipe.cache, tuple(recipe.peers))
    refuse_impossible(connected, student, asked, given)
    refuse_incomplete(recipe, data, asked, connected)
    refuse_small(recipe, data, teachers, connected)


def refuse_augmentation(augment: AugmentBlock, data: DataSet) -> None:
    """Tries the views on one sample.

    Raises:
        DataError: crops larger than the pictures, or changes of colour that their kind doesn't have.
    """
    first, views = torch.zeros(1, dtype=torch.int64), views_of(augment)
    views.apply(data.train.raw([0]), first, first)
    if views.second is None:
        return
    try:
        views.second.apply(data.train.raw([0]), first, first)
    except DataError as error:
        raise DataError(error.what, (error.where or "").replace("augment.", "augment.second."), error.fix) from error


def other_splits(recipe: DistillRecipe) -> list[str]:
    """Warnings about teachers whose own run split the same data otherwise: they have seen some of what is a test sample here."""
    warnings = []
    for name, block in recipe.teachers.items():
        resolved = Path(block.source.removeprefix("run:").partition("#")[0]) / "recipe.resolved.yaml"
        if not block.source.startswith("run:") or not resolved.exists():
            continue
        try:
            theirs = load(resolved).model_dump()["data"]
        except (TransfuseError, KeyError):
            continue
        ours = recipe.data.model_dump()
        if theirs["source"] == ours["source"] and theirs["split"] != ours["split"]:
            where = f"teacher '{name}' was trained on another split of {ours['source']}"
            warnings.append(f"{where}: it has probably seen some of this run's test samples, so its figures and the student's flatter")
    return warnings


def one_answer(name: str, model: Model, data: DataSet) -> str | None:
    """A warning about a teacher that names one class whatever it is shown; None where it doesn't."""
    shown = torch.linspace(0, len(data.val) - 1, min(len(data.val), LOOKED_AT)).long().unique()
    labels = data.val.labels[shown]
    if model.module is None or data.task != "classification" or len(labels.unique()) < 2:
        return None
    assert model.preprocess is not None
    module = model.network.eval()
    with torch.no_grad():
        outputs = module(data.val.exact(shown.tolist(), model.preprocess).to(device_of(module))).cpu()
    named = (outputs > 0).long().flatten() if outputs.shape[1] == 1 else outputs.argmax(1)
    if len(named.unique()) > 1:
        return None
    what = f"teacher '{name}' says '{data.classes[int(named[0])]}' about all of {len(shown)} validation samples"
    return f"{what}, which have {len(labels.unique())} classes; is its preprocess (size, scale, mean, std) the one it was trained with?"


def pool_size(data: DataSet) -> int:
    """Samples that a student learns from."""
    return len(data.train) + (len(data.unlabelled) if data.unlabelled is not None else 0)


def refuse_small(recipe: DistillRecipe, data: DataSet, teachers: Mapping[str, Model], objectives: Sequence[WeightedObjective]) -> None:
    """A cache, or a disk under it, that can't hold the logits of all teachers in all views; features that don't fit are asked live.

    Raises:
        RunError: says how much they take.
    """
    asked = [name for name, model in teachers.items() if model.module is not None]
    if recipe.augment.views == "fresh" or not asked:
        return
    cache, pool = recipe.cache, pool_size(data)
    form = form_of(cache, data.outputs)
    exact = file_bytes(len(data.val) + len(data.test), Dense((data.outputs,), "fp32").bytes)
    twice = set() if recipe.augment.second is None else asked_of(of_two_views(objectives)).keys() & set(asked)
    unkept = never_kept(objectives)
    times = len({*asked} - unkept) + len(twice - unkept)
    needed = times * int(recipe.augment.views) * file_bytes(pool, form.bytes) + len(asked) * exact
    fix = "use fewer augment.views, a smaller cache.top_k, or augment.views=fresh, which asks the teacher live"
    if needed > cache.max_bytes:
        what = f"the teachers' answers take {in_words(needed)}, the cache may take {in_words(cache.max_bytes)}"
        raise RunError(what, "cache.max_bytes", f"raise it, {fix}")
    answers = Path(cache.dir) / "answers"
    place = next(folder for folder in (answers, *answers.absolute().parents) if folder.is_dir())
    held = folder_bytes(answers) if answers.is_dir() else 0  # these very answers, or what can make room for them
    if needed > (free := shutil.disk_usage(place).free) + held:
        what = f"the teachers' answers take {in_words(needed)}, the disk has {in_words(free)} left"
        raise RunError(what, "cache.dir", f"name a folder on another disk, {fix}")


def refuse_speechless(where: str, model: Model, data: DataSet) -> None:
    """A teacher that has no finite answer for the training data.

    Raises:
        ModelError: a network that says NaN or infinity about a sample, or a table about other samples.
    """
    if model.table is None:
        with torch.no_grad():
            if not bool(model.network.eval()(example(model, data)).isfinite().all()):
                what = f"{model.source} says NaN or infinity about sample '{data.train.ids[0]}'"
                raise ModelError(what, where, "check its weights and its preprocess")
        return
    pools = [data.train] if data.unlabelled is None else [data.train, data.unlabelled]
    if all((table_rows(model, pool) < 0).all() for pool in pools):
        what = f"{model.source} has no prediction for any of {sum(map(len, pools))} training samples"
        fix = f"its ids look like {model.table[0][:2].tolist()}, the data's like {data.train.ids[:2].tolist()}"
        raise ModelError(what, where, fix)


def refuse_gaps(objectives: Sequence[WeightedObjective], teachers: Mapping[str, Model], data: DataSet) -> None:
    """A table that leaves out training samples, for an objective that relates the samples of a batch: some batches would have too few.

    Raises:
        RecipeError: says how many there are.
    """
    pool = training_pool(data)
    for name, model in teachers.items():
        learning = [one.name for one in objectives if one.card.level == "batch" and name in one.teachers]
        if model.table is None or not learning:
            continue
        known = int((table_rows(model, pool) >= 0).sum())
        if known < len(pool):
            what = f"it relates the samples of a batch, and {model.source} has a prediction for only {known:,} of {len(pool):,} of them"
            fix = "complete the table, or choose an objective that looks at each sample alone, such as kd"
            raise RecipeError(what, f"objectives.{learning[0]}", fix)


def refuse_incomplete(recipe: DistillRecipe, data: DataSet, teachers: Mapping[str, Model], objectives: Sequence[WeightedObjective]) -> None:
    """A cache that can't be written, unless it holds all that will be asked: one on a read-only medium may.

    Raises:
        RunError: it can't be written, and answers are missing.
    """
    try:
        refuse_unwritable(Path(recipe.cache.dir))
    except RunError:
        if recipe.augment.views == "fresh" or any(block.train is not None for block in recipe.teachers.values()):
            raise
        views, pool = views_of(recipe.augment), training_pool(data)
        first, second, unkept = asked_of(objectives), asked_of(of_two_views(objectives)), never_kept(objectives)
        for name, model in teachers.items():
            oracle = Oracle(name, model, data, recipe.cache, recipe.train.precision, torch.device("cpu"))
            complete = name in unkept or oracle.is_complete(pool, views, first.get(name, ()))
            complete = complete and oracle.knows(data.val) and oracle.knows(data.test)
            if complete and views.second is not None and name in second and name not in unkept:
                complete = oracle.is_complete(pool, views.second, second[name])
            if not complete:
                raise


def refuse_unwritable(cache: Path) -> None:
    """A cache folder that can't be made or written, judged without making it.

    Raises:
        RunError: a file stands in its way, or permission is missing.
    """
    fix = "set cache.dir=FOLDER (or $TRANSFUSE_CACHE) to a place with space and permission"
    for folder in (cache, *(cache / name for name in ("answers", "controls", "costs"))):
        place = folder.absolute()
        while not os.path.lexists(place) and place.parent != place:
            place = place.parent
        if not place.is_dir():
            raise RunError(f"the cache can't be written: {place} is not a folder", "cache.dir", fix)
        if not os.access(place, os.W_OK | os.X_OK):
            raise RunError(f"the cache can't be written: no permission in {place}", "cache.dir", fix)
