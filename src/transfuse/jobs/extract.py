"""transfuse extract: recipe -> data -> backbone -> features, once -> head, chosen on folds -> one network -> control -> report.

Features lie in the store of teachers' answers and the scores of the choice in the run folder, so resuming a run is running it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfuse import models
from transfuse.core import seeds
from transfuse.core.protocols import Reporter
from transfuse.core.types import DataSet, Model
from transfuse.data import check as data_check
from transfuse.engine import parallel
from transfuse.evaluate.projection import projected
from transfuse.jobs.context import Context, Live, Run, split_ready
from transfuse.jobs.deliver import export, finish
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.features import Extractor, TrainingRows, feature_paths, feature_width, open_backbone, training_rows
from transfuse.jobs.parts.networks import example, preprocess_of
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.parts.scratch import from_scratch
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.refusals import refuse_augmentation, refuse_unwritable
from transfuse.jobs.rundir import replacing
from transfuse.jobs.train import control, fitting
from transfuse.jobs.train.training import views_of
from transfuse.recipe.augment import asked
from transfuse.recipe.control import control_objectives
from transfuse.recipe.extract import ExtractRecipe
from transfuse.recipe.resolve import resolve, sentences

ONE_PROCESS = ("features are extracted by one process", "start it as one process")
TRAINED = ("train", "reuse")
MAPPED = 1000  # samples that the report's map shows


@dataclass
class Ready:
    """A job that was checked: everything is open and nothing is written.

    Attributes:
        recipe: resolved.
        reasons: why each `auto` became what it is.
        data: opened.
        backbone: frozen, with its preprocessing.
        paths: of the features.
    """

    recipe: ExtractRecipe
    reasons: dict[str, str]
    data: DataSet
    backbone: Model
    paths: tuple[str, ...]


def run(recipe: ExtractRecipe, reporter: Reporter | None = None, recipe_text: str | None = None, live: Live | None = None) -> Run:
    """Runs a new extraction.

    Args:
        recipe: as the user wrote it; `auto` values are resolved here.
        reporter: who is told what goes on; None: nobody.
        recipe_text: the user's YAML, kept word for word.
        live: objects in place of strings; the network is its `student`.

    Raises:
        TransfuseError: the user's input has to change.
        KeyboardInterrupt: interrupted; the run folder can be resumed.
    """
    began = time.monotonic()
    context = opening.new_context(recipe, reporter, live)
    ready = prepare(recipe, context)
    opening.lay_out(context, recipe, recipe_text, ready.recipe, ready.reasons)
    return _run(context, ready, began)


def resume(context: Context, recipe: ExtractRecipe) -> Run:
    """Goes on with a run from its resolved recipe."""
    opening.refuse_several_processes(*ONE_PROCESS)
    began = time.monotonic()
    data = open_data(recipe, context)
    backbone = open_backbone(recipe.model, data, recipe.seed, context.live.student)
    return _run(context, Ready(recipe, {}, data, backbone, feature_paths(backbone, recipe.paths, example(backbone, data))), began)


def check(recipe: ExtractRecipe, reporter: Reporter, live: Live) -> tuple[ExtractRecipe, dict[str, str]]:
    """The resolved recipe and its reasons; refuses what `run` refuses, and writes nothing."""
    ready = prepare(recipe, opening.new_context(recipe, reporter, live))
    return ready.recipe, ready.reasons


def open_data(recipe: ExtractRecipe, context: Context) -> DataSet:
    """The recipe's data, pictures at the size that the network asks for."""
    return opening.open_source(recipe.data, {"model": recipe.model}, context)


def prepare(recipe: ExtractRecipe, context: Context) -> Ready:
    """Opens and checks all that the job needs, without writing anything.

    Raises:
        TransfuseError: the job would be refused.
    """
    opening.refuse_several_processes(*ONE_PROCESS)
    with context.holding():
        return _prepared(recipe, context)


def _prepared(recipe: ExtractRecipe, context: Context) -> Ready:
    context.rundir.refuse_occupied()
    data = open_data(recipe, context)
    for warning in data_check.check(data):
        context.say(warning)
    plan = fitting.plan_of(recipe, data)
    backbone = open_backbone(recipe.model, data, recipe.seed, context.live.student)
    paths = feature_paths(backbone, recipe.paths, example(backbone, data))
    for note in backbone.notes:
        context.say(f"model: {note}")
    resolved, reasons = resolve(recipe, opening.facts_about(data, [data.train], context, data.outputs))
    assert isinstance(resolved, ExtractRecipe)
    if resolved.control not in TRAINED:  # nothing is trained by the loop
        reasons = {key: reason for key, reason in reasons.items() if not key.startswith("train.")}
    for line in sentences(resolved, reasons):
        context.reporter.say(line)
    fitting.sample_folds(resolved, data, plan)
    views = int(resolved.augment.views) if asked(resolved.augment.model_dump()) else 0
    fitting.refuse_components(resolved, feature_width(backbone, paths, example(backbone, data)), len(data.train), views)
    refuse_augmentation(resolved.augment, data)
    refuse_unwritable(Path(resolved.cache.dir))
    if resolved.control == "untrained" or resolved.control in TRAINED:
        from_scratch(backbone, example(backbone, data), None, 0)
    elif resolved.control != "none":
        control.of_run(resolved.control)
    return Ready(resolved, reasons, data, backbone, paths)


def _run(context: Context, ready: Ready, began: float) -> Run:
    context.say(split_ready(ready.data))
    earlier = context.ledger.get("seconds.before", 0.0)
    try:
        return _stages(context, ready, began)
    finally:
        context.keep("seconds.before", earlier + time.monotonic() - began)


def _stages(context: Context, ready: Ready, began: float) -> Run:
    recipe, data = ready.recipe, ready.data
    ready.backbone.network.to(context.device)
    student, rows = obtain_student(context, ready)
    baseline = obtain_control(context, ready)
    keep_map(context, ready, rows)
    finish.evaluate(context, recipe, data, finish.trained_models(student, baseline), {}, began)
    failed = export.at_end(context, recipe.export, student, data)
    finish.report(context)
    parallel.stop()
    export.refuse(failed)
    return Run(context.rundir.path, student.network)


def obtain_student(context: Context, ready: Ready) -> tuple[Model, TrainingRows]:
    """Features of the pretrained network, the head that is fitted to them, and both as one network, kept."""
    recipe, data = ready.recipe, ready.data
    extractor = Extractor(context, ready.backbone, ready.paths, recipe.cache)
    rows = rows_of(extractor, recipe, data)
    counted = context.ledger.get("teacher_forwards", 0) + extractor.computed
    context.keep("teacher_forwards", counted)
    context.say(_explained(extractor, rows, len(data.train)))
    started = time.monotonic()
    fitted = fitting.fit(context, recipe, data, rows, context.rundir.path / "choice.json", "head")
    student = fitting.assembled(ready.backbone, ready.paths, fitted, data, example(ready.backbone, data))
    about: dict[str, Any] = fitting.told(recipe, fitted, data, rows)
    seconds = {"features": round(extractor.seconds, 4), "head": round(time.monotonic() - started, 4)}
    made = {"taps": list(ready.paths), "computed": extractor.computed, "seconds": seconds, "control": recipe.control}
    context.keep("extract", {**about, **made})
    context.keep("seconds.student", extractor.seconds + seconds["head"])
    context.say(_choice(about))
    if about["ends"] == "other":
        context.say(
            f"head: a {about['head']} is no layer that exporters know; it is kept as tensors in student.safetensors, which "
            "transfuse.load opens as one network"
        )
    models.save_model(student, context.rundir.student, {"head": about["head"]})
    return student, rows


def rows_of(extractor: Extractor, recipe: ExtractRecipe, data: DataSet) -> TrainingRows:
    """What the head is fitted to: samples as they are, or their views where the recipe augments."""
    views = views_of(recipe.augment) if asked(recipe.augment.model_dump()) else None
    return training_rows(extractor, data, recipe.data.split.fold is not None, views, recipe.train.loader)


def obtain_control(context: Context, ready: Ready) -> Model | None:
    """What the pretrained weights are compared with; see the recipe's `control`."""
    recipe, data = ready.recipe, ready.data
    seed = seeds.derive(recipe.seed, "init", "student")
    if recipe.control == "untrained":
        network = from_scratch(ready.backbone, example(ready.backbone, data), None, seed)
        network.network.to(context.device)
        rows = rows_of(Extractor(context, network, ready.paths, recipe.cache, "control features"), recipe, data)
        fitted = fitting.fit(context, recipe, data, rows, context.rundir.path / "control" / "choice.json", "control head")
        found = fitting.assembled(network, ready.paths, fitted, data, example(network, data))
        models.save_model(found, context.rundir.control / "student.safetensors", {"head": next(iter(recipe.head))})
        context.say("control: the same head on the same network with random weights")
        return found
    if recipe.control in TRAINED:
        untrained = from_scratch(ready.backbone, example(ready.backbone, data), data.outputs, seed)
        untrained.preprocess = preprocess_of(recipe.model, untrained, data)
        untrained.classes, untrained.target = list(data.classes) or None, data.target
        label_terms = [terms.build(block, (), {}) for block in control_objectives(recipe)]
        label_terms, _ = terms.connected(label_terms, untrained, {}, data, recipe.seed)
        return control.obtain(context, recipe, data, untrained, standardised(data.train, data), label_terms)
    return control.obtain(context, recipe, data, ready.backbone, data.train, [])


def keep_map(context: Context, ready: Ready, rows: TrainingRows) -> None:
    """features/map.npz: some training samples in two dimensions, for the report."""
    if ready.recipe.map == "none":
        return
    first = rows.features[: len(ready.data.train)]  # one view of each sample
    chosen = torch.randperm(len(first), generator=seeds.generator(ready.recipe.seed, "map"))[:MAPPED].sort().values.numpy()
    points = projected(first[chosen], ready.recipe.map, ready.recipe.seed)
    labels = ready.data.train.labels.numpy()[chosen]
    place = context.rundir.path / "features" / "map.npz"
    place.parent.mkdir(exist_ok=True)
    with replacing(place) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, ids=ready.data.train.ids[chosen], points=points, labels=labels, how=np.array(ready.recipe.map))


def _explained(extractor: Extractor, rows: TrainingRows, samples: int) -> str:
    views = len(rows.features) // max(samples, 1) - 1
    what = f"features: {rows.features.shape[1]} of {', '.join(extractor.paths)}, for {samples:,} samples"
    what += f" as they are and in {views} views" if views else ""
    if not extractor.computed:
        return f"{what}; all were remembered, read in {extractor.seconds:.2g} s"
    return f"{what}; {extractor.computed:,} were computed, in {extractor.seconds:.2g} s"


def _choice(about: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value:g}" for name, value in about["setting"].items())
    if not about["candidates"]:
        return f"head: {about['head']} with {settings}"
    best = next(one for one in about["candidates"] if one["setting"] == about["setting"])
    how = f"{about['metric']} {best['mean']:.4g} over {about['folds']} folds of the training part"
    return f"head: {about['head']} with {settings}, the best of {len(about['candidates'])} by {how}"
