"""Knowledge amalgamation, the way `how: amalgamate` of a fusion: sources that each know some of the classes teach one student all of them.

recipe -> data -> sources and their classes -> control on all labels (the upper bound) -> student, which needs no label -> report. Every
stage leaves a file and is skipped where its file is there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse import data as data_sources
from transfuse.core import ranks
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import check as data_check
from transfuse.data.samples import relabel
from transfuse.engine import parallel
from transfuse.engine.loader import is_labelled
from transfuse.evaluate.summary import transfer_summary
from transfuse.jobs import distill
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.deliver.finish import asking, keep_predictions, known_reasons, summary_of
from transfuse.jobs.fusing import spreading
from transfuse.jobs.fusing import student as fuse_student
from transfuse.jobs.fusing.class_sets import Known, open_known, overlaps, refuse_gaps
from transfuse.jobs.fusing.features import refuse_copies, settled
from transfuse.jobs.fusing.sources import present
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.parts.networks import count_outputs, open_student
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare import opening
from transfuse.jobs.rundir import write_json
from transfuse.jobs.train import control
from transfuse.objectives.outputs.amalgamate import joined
from transfuse.recipe.blocks import TeacherBlock
from transfuse.recipe.control import control_objectives
from transfuse.recipe.fuse import FuseRecipe
from transfuse.recipe.methods import ObjectiveBlock, parse_objective
from transfuse.recipe.needs import card_of
from transfuse.recipe.resolve import resolve, sentences
from transfuse.recipe.schema import DistillRecipe

JOIN = "join"  # what the sources say together; what the student learns


@dataclass
class Opened:
    """An amalgamation that is ready: the resolved recipe and why it became so, its data, and its sources in the union of their classes."""

    recipe: FuseRecipe
    reasons: dict[str, str]
    data: DataSet
    sources: Mapping[str, Known]


@dataclass
class Learnt:
    """What came of the training: the student, the same from labels where there are some, and what it was taught."""

    student: Model
    joint: Model | None
    taught: spreading.Taught


def asked_for(recipe: FuseRecipe) -> bool:
    """Whether a fusion is an amalgamation and nothing else."""
    return isinstance(recipe.how, list) and [way.name for way in recipe.how] == ["amalgamate"]


def run(recipe: FuseRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new amalgamation.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; sources are its teachers.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    opened = prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, opened.recipe, opened.reasons)
    return _run(context, opened, began)


def resume(context: Context, recipe: FuseRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    began = time.monotonic()
    data = open_data_of(recipe, context)
    return _run(context, Opened(recipe, {}, data, open_known(recipe, data, context)), began)


def check(recipe: FuseRecipe, reporter: Reporter, live: Live) -> tuple[FuseRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    opened = prepare(recipe, opening.new_context(recipe, reporter, live))
    return opened.recipe, opened.reasons


def prepare(recipe: FuseRecipe, context: Context) -> Opened:
    """Opens and checks all that the job needs, without writing anything.

    Raises:
        TransfuseError: the job would be refused: class sets that contradict the data's, a class that nobody knows.
    """
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    data = open_data_of(recipe, context)
    known = bool(is_labelled(data.train.labels).any())
    for warning in data_check.check(data, train_labels=known):
        context.say(warning)
    sources = open_known(recipe, data, context)
    refuse_gaps(sources, data)
    refuse_copies({name: source.model for name, source in sources.items()})
    for note in overlaps(sources):
        context.say(note)
    assert recipe.student is not None
    student = open_student(recipe.student, data, recipe.seed, context.live.student)
    outputs = count_outputs(student, data)
    export.rehearse(recipe.export, student, data)
    decided, reasons = with_objectives(recipe)
    decided, spread = spreading.decide(decided, data, {name: source.model for name, source in sources.items()})
    if spread:
        context.say(spread)
    if not known and decided.control != "none":
        decided = decided.model_copy(update={"control": "none"})
        reasons["control"] = "no training sample has a label, so nobody can be trained on labels"
    parts = [part for part in (data.train, data.unlabelled) if part is not None]
    facts = replace(opening.facts_about(data, parts, context, outputs), teachers=tuple(sources), tables=tables_among(sources))
    resolved, more = resolve(decided, facts)
    assert isinstance(resolved, FuseRecipe)
    fuse_student.refuse_objectives(resolved, data, student, {name: source.model for name, source in sources.items()}, context.live)
    reasons = {**more, **reasons}
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    say_what_labels_do(resolved, context)
    return Opened(resolved, reasons, data, sources)


def open_data_of(recipe: FuseRecipe, context: Context) -> DataSet:
    """The recipe's data; the training part needs no label."""
    assert recipe.student is not None
    request = opening.request_of(recipe.data, {"student": recipe.student, **present(recipe)})
    given = context.live.data if context.live.data is not None else recipe.data.source
    data = data_sources.open_data(given, replace(request, train_labels=False))
    for note in data.notes:
        context.say(note)
    return data


def with_objectives(recipe: FuseRecipe) -> tuple[FuseRecipe, dict[str, str]]:
    """`objectives: auto` as the join of the sources' class sets; of what is for fused features no `auto` is left, as nobody looks at it."""
    unused = {part: settled(getattr(recipe.features, part)) for part in ("train", "finetune")} | {"start": "random"}
    recipe = recipe.model_copy(update={"features": recipe.features.model_copy(update=unused)})
    if recipe.objectives != "auto":
        return recipe, {}
    block = ObjectiveBlock(**parse_objective({"amalgamate": {"weight": 1.0}}))
    reason = "the sources' class sets joined to one prediction; no label is looked at"
    return recipe.model_copy(update={"objectives": [block]}), {"objectives": reason}


def say_what_labels_do(recipe: FuseRecipe, context: Context) -> None:
    """One sentence on what labels are looked at for."""
    learnt = learnt_from_labels(recipe)
    if learnt:
        context.say(f"the student learns from training labels, too: {', '.join(learnt)}")
    elif recipe.train.select == "best":
        context.say("the student learns from no label, but validation labels choose its weights; train.select=last looks at none")


def learnt_from_labels(recipe: FuseRecipe) -> list[str]:
    """Names of the objectives that look at training labels."""
    assert isinstance(recipe.objectives, list)
    return [block.name for block in recipe.objectives if {"labels", "hard_labels"} & set(card_of(block.name, block.method).needs)]


def tables_among(sources: Mapping[str, Known]) -> tuple[str, ...]:
    """Names of the sources that are tables of predictions."""
    return tuple(name for name, source in sources.items() if source.model.table is not None)


def _run(context: Context, opened: Opened, began: float) -> Run:
    context.say(split_ready(opened.data))
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, opened, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, opened: Opened, began: float) -> Run:
    recipe, data = opened.recipe, opened.data
    lesson = lesson_of(recipe)
    oracles = {name: oracle_of(context, recipe, data, name, source.model) for name, source in opened.sources.items()}
    joint = None
    if recipe.control != "none":
        untrained = open_student(lesson.student, data, recipe.seed, context.live.student)
        label_terms = [terms.build(block, (), {}) for block in control_objectives(lesson, data.task)]
        label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
        joint = control.obtain(context, lesson, data, untrained, training_pool(data), label_terms)
    student = open_student(lesson.student, data, recipe.seed, context.live.student)
    assert isinstance(recipe.objectives, list)
    objectives = [terms.build(block, tuple(oracles), context.live.objectives) for block in recipe.objectives]
    taught = spreading.settle(context, recipe, data, training_pool(data), objectives, oracles)
    student = distill.obtain_student(context, lesson, data, student, taught.objectives, taught.oracles, {})
    evaluate(context, opened, oracles, Learnt(student, joint, taught), began)
    failed = export.at_end(context, recipe.export, student, data)
    if ranks.rank() == 0:
        finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def lesson_of(recipe: FuseRecipe) -> DistillRecipe:
    """The recipe as that of a distillation from all sources."""
    return fuse_student.distillation(recipe, {name: TeacherBlock(**block.model_dump()) for name, block in present(recipe).items()})


def oracle_of(context: Context, recipe: FuseRecipe, data: DataSet, name: str, model: Model) -> Oracle:
    """A source in the union of all classes, remembered on disk."""
    if model.module is not None:
        model.module.to(context.device)
    return Oracle(name, model, data, recipe.cache, recipe.train.precision, context.device, context.say)


def evaluate(context: Context, opened: Opened, oracles: Mapping[str, Oracle], learnt: Learnt, began: float) -> None:
    """Writes predictions and summary.json. The test split is looked at here and nowhere else.

    Control: the same student trained on all labels together, which is an upper bound. Ensemble: what the sources say once their class sets
    are joined, which the student learnt. Each source's own figures are about test samples of its own classes.
    """
    if ranks.rank() != 0:
        return
    recipe, data, threads = opened.recipe, opened.data, opened.recipe.budget.threads
    student, joint = learnt.student, learnt.joint
    before = sum(oracle.asked() for oracle in oracles.values())  # those until the student had learnt are in the ledger

    def join(samples: Samples) -> Tensor:
        return joined([oracle.outputs(samples) for oracle in oracles.values()])

    asks = {"student": asking(student), **({"control": asking(joint)} if joint is not None else {}), "ensemble": join}
    costs: dict[str, Any] = {"student": finish.measured(student, data, threads)}
    costs["control"], costs["ensemble"] = costs["student"], None
    said = {name: keep_predictions(context, data, name, ask) for name, ask in asks.items()}
    labels, ledger = data.test.labels.numpy(), context.ledger
    blocks = {name: summary_of(data, said[name], costs[name], recipe.seed) for name in asks}
    summary = {
        **finish.heading(recipe, data),
        "models": blocks,
        "teachers": {},
        "sources": {name: source_summary(context, opened, name, oracle) for name, oracle in oracles.items()},
        "transfer": transfer_summary(data.task, labels, said["student"], said.get("control"), {JOIN: said["ensemble"]}, recipe.seed),
        "amalgamation": {
            "classes": {name: [data.classes[place] for place in source.places] for name, source in opened.sources.items()},
            "count": len(data.classes),
            "labels": learnt_from_labels(recipe),
            "upper_bound": None if joint is None else "control: the same student trained on the labels of all classes together",
            "spread": learnt.taught.figures or None,
        },
        "teacher_forwards": ledger.get("teacher_forwards", 0) + sum(oracle.asked() for oracle in oracles.values()) - before,
        "seconds": {
            "train": round(ledger.get("seconds.student", 0.0), 3),
            "total": round(ledger.get("seconds.before", 0.0) + time.monotonic() - began, 3),
        },
        "budget": finish.budget(lesson_of(recipe), blocks["student"]),
    }
    if recipe.samples:
        finish.keep_samples(context, data, said, {JOIN: said["ensemble"]})
    write_json(context.rundir.path / "reasons.json", {"auto": known_reasons(context), "notes": context.notes})
    write_json(context.rundir.summary, summary)


def source_summary(context: Context, opened: Opened, name: str, oracle: Oracle) -> dict[str, Any]:
    """A source's figures among its own classes, on test samples of those classes."""
    data, places = opened.data, opened.sources[name].places
    said = keep_predictions(context, data, name, oracle.outputs)
    own = np.full(len(data.classes), -1, np.int64)
    own[places] = np.arange(len(places))
    labels = torch.from_numpy(np.where(data.test.labels.numpy() >= 0, own[data.test.labels.numpy()], -1))
    narrow = replace(data, test=relabel(data.test, labels), classes=[data.classes[place] for place in places])
    return summary_of(narrow, said[:, places], oracle.cost(opened.recipe.budget.threads), opened.recipe.seed)
