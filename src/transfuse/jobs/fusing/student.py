"""The student of a fusion: a smaller network that learns from what was fused, or from all sources at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfuse import models
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import samples as pools
from transfuse.engine.order import Order
from transfuse.jobs import series
from transfuse.jobs.context import Context, Live
from transfuse.jobs.fusing import ways as fuse_ways
from transfuse.jobs.fusing.panel import Panel, Way
from transfuse.jobs.fusing.sources import Source, tables_among
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.networks import count_outputs, open_student, restore, with_head_of
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare.rehearsal import Circumstances, refuse_impossible
from transfuse.jobs.rundir import replacing
from transfuse.recipe.augment import changes
from transfuse.recipe.blocks import TeacherBlock
from transfuse.recipe.fuse import FuseRecipe
from transfuse.recipe.methods import ObjectiveBlock, parse_objective
from transfuse.recipe.schema import DistillRecipe

RUN = "distill"  # the folder in runs/ of the student's own run
FUSED = "fused"  # what its teacher is called
_INNER = {"teacher.features", "teacher.head", "teacher.batchnorm"}


@dataclass
class Taught:
    """The distilled student, and the same network from labels alone, where the run has it."""

    model: Model
    joint: Model | None


def teachers_of(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Source]) -> dict[str, tuple[str, ...]]:
    """Names of the student's teachers, and those of them that are tables, as facts for resolving the recipe."""
    assert isinstance(recipe.how, list)
    if [way.name for way in recipe.how] == ["distill"]:
        return {"teachers": tuple(sources), "tables": tuple(tables_among(sources))}
    return {"teachers": (FUSED,), "tables": (FUSED,) if recipe.student and by_table(recipe, sources) else ()}


def without_labels(data: DataSet) -> ObjectiveBlock:
    """The term of the task's default loss that learns from a teacher alone."""
    return ObjectiveBlock(**parse_objective("logit_mse" if data.task == "regression" else "kd"))


def by_table(recipe: FuseRecipe, sources: Mapping[str, Source]) -> bool:
    """Whether what is fused teaches as a table: where a table takes part, and where no sample is changed, so that its remembered answers
    are all that a student needs."""
    return bool(tables_among(sources)) or not changes(recipe.augment.model_dump())


def taught_by(recipe: FuseRecipe, student: Model, data: DataSet, sources: Mapping[str, Source]) -> dict[str, Model]:
    """The student's teachers as far as they are known before anything is fused: of what will be, how many numbers it says."""
    if teachers_of(recipe, data, sources)["teachers"] != (FUSED,):
        return {name: source.model for name, source in sources.items()}
    said = torch.zeros(1, count_outputs(student, data))
    return {FUSED: Model(None, FUSED, table=(np.empty(0, np.int64), said))}


def refuse_objectives(recipe: FuseRecipe, data: DataSet, student: Model, teachers: Mapping[str, Model], live: Live) -> None:
    """Objectives that can't teach the student; those that look into a network that isn't fused yet are left to the student's own run.

    Raises:
        TransfuseError: one finds no features or can't work on what there is.
    """
    assert isinstance(recipe.objectives, list)
    objectives = [terms.build(block, tuple(teachers), live.objectives) for block in recipe.objectives]
    if FUSED in teachers:
        objectives = [one for one in objectives if not one.teacher_taps and not _INNER & set(one.card.needs)]
    asked = {name: with_head_of(student, model, data) for name, model in teachers.items()}
    objectives, _ = terms.connected(objectives, student, asked, data, recipe.seed)
    pool = training_pool(data)
    order = Order(len(pool), min(recipe.train.batch_size, len(pool)), recipe.seed)
    given = Circumstances(data, pool, order, recipe.train, recipe.augment, recipe.cache)
    refuse_impossible(objectives, student, asked, given)


def obtain(context: Context, recipe: FuseRecipe, panel: Panel, chosen: Way, reasons: Mapping[str, str]) -> Taught | None:
    """Distils what was chosen into the recipe's student; None where there is none, or where the choice meets the budget as it is.

    The distillation is an ordinary run in runs/distill, resumed where it was interrupted.
    """
    if recipe.student is None:
        return None
    if fuse_ways.limited(recipe.budget) and fuse_ways.fits(chosen, recipe.budget):
        context.say(f"{chosen.name} meets the budget as it is, so nothing is distilled")
        return None
    teachers, live = teachers_blocks(context, recipe, panel, chosen)
    member = series.Member(RUN, distillation(recipe, teachers), {}, live)
    series.obtain(context, member)
    series.ship(context, RUN)
    folder = series.folder(context, RUN)
    own = folder.read_summary()
    context.keep("seconds.student", own["seconds"]["train"])
    context.keep("teacher_forwards", own["teacher_forwards"])
    student = restore(open_student(recipe.student, panel.data, recipe.seed, context.live.student), folder.student)
    joint = None
    if (folder.control / "student.safetensors").exists():
        joint = restore(open_student(recipe.student, panel.data, recipe.seed, context.live.student), folder.control / "student.safetensors")
    return Taught(student, joint)


def teachers_blocks(context: Context, recipe: FuseRecipe, panel: Panel, chosen: Way) -> tuple[dict[str, TeacherBlock], Live]:
    """The distillation's teachers: every source, or what was fused, as a network or as a table of its answers."""
    live = Live(context.live.data, context.live.student, {}, context.live.objectives)
    if chosen.name == "distill":
        live.teachers = {name: module for name, module in context.live.teachers.items() if name in panel.sources}
        return {name: TeacherBlock(**recipe.sources[name].model_dump()) for name in panel.sources}, live
    path = context.rundir.path / "fused.safetensors"
    if by_table(recipe, panel.sources) or chosen.model is None:
        return {FUSED: TeacherBlock(source=f"predictions:{write_table(context, panel, chosen)}")}, live
    if chosen.model.architecture is None:  # made of modules that only the caller can build
        live.teachers = {FUSED: chosen.model.network}
        preprocess = chosen.model.preprocess.to_dict() if chosen.model.preprocess else None
        return {FUSED: TeacherBlock(source=f"live:{type(chosen.model.network).__name__}", preprocess=preprocess)}, live
    if not path.exists():
        models.save_model(chosen.model, path, {"way": chosen.name})
    return {FUSED: TeacherBlock(source=f"file:{path}")}, live


def write_table(context: Context, panel: Panel, chosen: Way) -> Path:
    """fused.npz: what the chosen way says about every sample of the data, which `predictions:` opens."""
    assert chosen.ask is not None
    data, path = panel.data, context.rundir.path / "fused.npz"
    if path.exists():
        return path
    ids: dict[str, np.ndarray] = {}
    for samples in parts_of(data, panel):
        said = panel.units(chosen.ask(samples)).float().numpy()
        for name, row in zip(samples.ids.tolist(), said, strict=True):
            ids.setdefault(str(name), row)
    content: dict[str, Any] = {"ids": np.array(list(ids)), "logits": np.stack(list(ids.values()))}
    if data.classes:
        content["classes"] = np.array(data.classes)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **content)
    return path


def parts_of(data: DataSet, panel: Panel) -> list[Samples]:
    """All samples; of the training ones those that every table among the sources has an answer for."""
    from transfuse.jobs.parts.answers import table_rows

    found: list[Samples] = [data.val, data.test]
    for samples in (data.train, data.unlabelled):
        if samples is None:
            continue
        known = np.ones(len(samples), bool)
        for source in panel.sources.values():
            if source.model.table is not None:
                known &= table_rows(source.model, samples) >= 0
        rows = np.flatnonzero(known)
        if len(rows):
            found.append(samples if len(rows) == len(samples) else pools.subset(samples, torch.from_numpy(rows)))
    return found


def distillation(recipe: FuseRecipe, teachers: Mapping[str, TeacherBlock]) -> DistillRecipe:
    """The recipe of the student's own run; what the fusion exports is the fusion's to write."""
    assert recipe.student is not None
    assert isinstance(recipe.objectives, list)
    blocks: list[ObjectiveBlock] = recipe.objectives
    return DistillRecipe(
        data=recipe.data,
        teachers=dict(teachers),
        student=recipe.student,
        objectives=blocks,
        augment=recipe.augment,
        train=recipe.train,
        control=recipe.control,
        cache=recipe.cache,
        budget=recipe.budget,
        samples=recipe.samples,
        seed=recipe.seed,
    )
