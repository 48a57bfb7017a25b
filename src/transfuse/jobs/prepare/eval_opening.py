"""Opening what an evaluation needs: the data (a run's own, where none are named), the part that is looked at, and the models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from transfuse import data as sources
from transfuse import models
from transfuse.core.types import DataSet, Model, ModelRequest, Samples, Target
from transfuse.data import samples as pools
from transfuse.errors import DataError, RecipeError
from transfuse.evaluate import robustness
from transfuse.jobs.context import Context
from transfuse.jobs.parts.networks import align, check_outputs, preprocess_of, request_for
from transfuse.jobs.prepare.opening import facts_about, request_of
from transfuse.jobs.rundir import RunDir
from transfuse.recipe.blocks import DataBlock, ModelBlock
from transfuse.recipe.eval import EvalRecipe
from transfuse.recipe.load import load
from transfuse.recipe.resolve import resolve_data


@dataclass
class Opened:
    """An evaluation that is ready: everything was opened and nothing was refused.

    Attributes:
        recipe: with the data that are used, resolved.
        reasons: why these, where the recipe named none, and why each `auto` became what it is.
        data: opened.
        samples: the part that is looked at; labelled.
        models, teachers: by name, their outputs in the data's class order or units.
    """

    recipe: EvalRecipe
    reasons: dict[str, str]
    data: DataSet
    samples: Samples
    models: dict[str, Model]
    teachers: dict[str, Model]


def prepare(recipe: EvalRecipe, context: Context) -> Opened:
    """Opens and checks everything; writes nothing.

    Raises:
        TransfuseError: the evaluation would be refused.
    """
    twice = [name for name in recipe.teachers if name in recipe.models]
    if twice:
        raise RecipeError(f"'{twice[0]}' is a model and a teacher", where="teachers", fix="give them different names")
    recipe, reasons = _with_data(recipe, context)
    assert recipe.data is not None
    given = context.live.data if context.live.data is not None else recipe.data.source
    data = sources.open_data(given, request_of(recipe.data, {**recipe.models, **recipe.teachers}))
    for note in [*_unfinished(recipe), *data.notes]:
        context.say(note)
    samples = part_of(data, recipe.part)
    if recipe.corruptions():
        robustness.refuse_unfit(samples, data.task)
    opened = {
        group: {name: _open(f"{group}.{name}", block, data, held.get(name), context) for name, block in blocks.items()}
        for group, blocks, held in (
            ("models", recipe.models, context.live.models),
            ("teachers", recipe.teachers, context.live.teachers),
        )
    }
    context.say(f"{data.source}: {len(samples):,} samples of the {'whole' if recipe.part == 'all' else recipe.part + ' part'}")
    resolved, decided = resolve_data(recipe, facts_about(data, [data.train], context, data.outputs))
    assert isinstance(resolved, EvalRecipe)
    return Opened(resolved, {**reasons, **decided}, data, samples, opened["models"], opened["teachers"])


def _with_data(recipe: EvalRecipe, context: Context) -> tuple[EvalRecipe, dict[str, str]]:
    """The recipe with data: its own, or those of the first model that is a run."""
    if recipe.data is not None:
        return recipe, {}
    for name, block in recipe.models.items():
        folder = run_folder(block.source)
        if folder is None:
            continue
        found = data_of(folder)
        if found.source == "live" and context.live.data is None:
            fix = "name the data: data=images:FOLDER; from Python: data=..."
            raise RecipeError(f"{block.source} was trained on live objects, which are not at hand", where="data", fix=fix)
        return recipe.model_copy(update={"data": found}), {"data": f"the data of {block.source}, models.{name}"}
    fix = "for example: data=images:./photos (transfuse ls data)"
    raise RecipeError("is missing, and no model is a run whose data could be taken", where="data", fix=fix)


def _unfinished(recipe: EvalRecipe) -> list[str]:
    """A line for each model of a run that isn't finished: its weights are there, its own figures are not."""
    found = []
    for name, block in {**recipe.models, **recipe.teachers}.items():
        folder = run_folder(block.source)
        if folder is not None and RunDir(folder).resolved.exists() and not RunDir(folder).finished:
            state = "its summary.json is damaged" if RunDir(folder).summary.exists() else "it has no summary.json"
            found.append(f"{name}: the run is not finished, {state}; its weights are measured as they are (transfuse resume {folder})")
    return found


def run_folder(source: str) -> Path | None:
    """The folder of `run:PATH` or `run:PATH#PART`; None for other sources."""
    prefix, _, name = source.partition(":")
    if prefix != "run":
        return None
    whole = "#" not in name or Path(name).expanduser().is_dir()  # a folder's own name may have a #
    return Path(name if whole else name.rpartition("#")[0]).expanduser()


def data_of(folder: Path) -> DataBlock:
    """The data of a run as its recipe has them; of two domains, the target.

    Raises:
        RunError: not a run folder.
        RecipeError: its recipe was changed and can't be read, or has no data.
    """
    rundir = RunDir(folder)
    rundir.open()
    recipe = load(rundir.resolved)
    found = getattr(recipe, "target", None) or getattr(recipe, "data", None)
    if not isinstance(found, DataBlock):
        raise RecipeError("names no data", where=str(rundir.resolved), fix="name them: data=images:./photos")
    return found


def part_of(data: DataSet, part: str) -> Samples:
    """The labelled samples of a part of the data.

    Raises:
        DataError: there are none.
    """
    if part != "all":
        samples: Samples = getattr(data, part)
    else:
        samples = pools.concat(pools.concat(data.train, data.val), data.test)
    labels = samples.labels
    known = ~labels.isnan().any(1) if torch.is_floating_point(labels) else labels >= 0
    if not bool(known.any()):
        raise DataError(f"no sample of the {part} part has a label", where=data.source, fix="choose another part: part=test")
    return samples if bool(known.all()) else pools.subset(samples, known.nonzero()[:, 0])


def _open(where: str, block: ModelBlock, data: DataSet, live: nn.Module | None, context: Context) -> Model:
    """A model whose outputs are in the data's class order (or scaling).

    Raises:
        ModelError: unknown, or its outputs don't match the data.
    """
    if live is not None:
        model = models.open_model(copy.deepcopy(live), ModelRequest())
        if data.target is not None:  # people's own networks predict what they want to know, not standard deviations
            names = data.target.names
            model.target = Target(names, [0.0] * len(names), [1.0] * len(names))
    else:
        request = request_for(block, data, 0, fresh=False)
        if block.source.startswith("builtin:"):
            request = replace(request, outputs=data.outputs)
        model = models.open_model(block.source, request)
    if not model.pretrained:
        context.say(f"{where}: {model.source} has no trained weights")
    model.preprocess = preprocess_of(block, model, data)
    model = align(model, data, block.classes)
    check_outputs(model, data, where)
    for note in model.notes:
        context.say(f"{where}: {note}")
    return model
