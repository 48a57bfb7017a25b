"""The sources of a fusion: opened, brought into the data's terms, and refused where they can't be fused."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transfuse import models
from transfuse.core import seeds
from transfuse.core.types import DataSet, Model, ModelRequest, Target
from transfuse.data import samples as pools
from transfuse.engine.teacher_cache import key
from transfuse.errors import DataError, ModelError, RecipeError
from transfuse.evaluate.predict import predict
from transfuse.jobs.context import Context
from transfuse.jobs.parts.answers import table_rows
from transfuse.jobs.parts.networks import (
    BinaryHead,
    align,
    as_binary,
    check_outputs,
    count_outputs,
    preprocess_of,
    request_for,
)
from transfuse.models.classes import Rescaled, SelectedOutputs
from transfuse.models.ensemble import Member
from transfuse.recipe.blocks import ModelBlock
from transfuse.recipe.fuse import FuseRecipe

PROBES = 64  # validation samples on which sources are looked at before anything is written
_FLAT = 1e-6  # relative; outputs that differ less between all samples are one answer


@dataclass
class Source:
    """One source in the data's terms.

    Attributes:
        name: in the recipe.
        model: outputs in the data's order or scaling; two columns for two classes.
        member: its network and what is done to its outputs, for modules that hold several; None for a table.
        preview: what it says about the first validation samples.
    """

    name: str
    model: Model
    member: Member | None
    preview: Tensor


class SomeClasses(ModelError):
    """A source that knows some of the data's classes and no others, which an amalgamation could use."""


def open_all(recipe: FuseRecipe, data: DataSet, context: Context) -> dict[str, Source]:
    """Opens every source.

    Raises:
        TransfuseError: a file is missing and may not be, another task, other classes, shapes that don't fit, an answer that is none, or
            the same model twice.
    """
    found: dict[str, Source] = {}
    for name, block in those_there(recipe, context).items():
        found[name] = _open(name, block, data, recipe.seed, context.live.teachers.get(name))
    refuse_twins(list(found.values()), data)
    for name, source in found.items():
        for note in source.model.notes:
            context.say(f"source '{name}': {note}")
    return found


def present(recipe: FuseRecipe) -> dict[str, ModelBlock]:
    """The sources whose files are there.

    Raises:
        ModelError: one is not, and the recipe doesn't say that the job may go on without it.
    """
    there = {name: block for name, block in recipe.sources.items() if missing_file(block.source) is None}
    gone = [name for name in recipe.sources if name not in there]
    if gone and recipe.missing == "refuse":
        refuse_missing(gone[0], recipe.sources[gone[0]])
    return there


def those_there(recipe: FuseRecipe, context: Context) -> dict[str, ModelBlock]:
    """The same; says who is left out.

    Raises:
        ModelError: as above.
        RecipeError: there is nothing to fuse any more.
    """
    there = present(recipe)
    for name, block in recipe.sources.items():
        if name not in there:
            context.say(f"source '{name}' is left out: there is no {missing_file(block.source)}")
    if len(there) < 2:
        what = f"at least two sources are needed to fuse, and there is only {', '.join(there) or 'none'}"
        raise RecipeError(what, "sources", "check the paths of the others")
    return there


def missing_file(source: str) -> Path | None:
    """The file or folder that a source string names and that isn't there."""
    prefix, _, name = source.partition(":")
    if prefix not in ("file", "run", "predictions"):
        return None
    path = Path(name).expanduser()
    if prefix == "run" and not path.exists():
        path = Path(name.rpartition("#")[0] or name).expanduser()
    return None if path.exists() else path


def refuse_missing(name: str, block: ModelBlock) -> None:
    """
    Raises:
        ModelError: the source's file is not there.
    """
    raise ModelError(f"there is no {missing_file(block.source)}", f"sources.{name}", "check the path, or go on without it: missing=skip")


def _open(name: str, block: ModelBlock, data: DataSet, seed: int, live: nn.Module | None) -> Source:
    where = f"sources.{name}"
    try:
        if live is not None:
            base = models.open_model(copy.deepcopy(live), ModelRequest())
            if data.target is not None:
                names = data.target.names
                base.target = Target(names, [0.0] * len(names), [1.0] * len(names))
                base.notes.append("its predictions are taken to be in the targets' own units")
        else:
            request = request_for(block, data, seeds.derive(seed, "init", name), fresh=False)
            if block.source.startswith("builtin:"):
                request.outputs = data.outputs
            base = models.open_model(block.source, request)
        if base.module is not None and not base.pretrained:
            raise ModelError(
                f"{base.source} has no trained weights: it knows nothing to fuse", fix="give a source with weights: file:, run:"
            )
        base.preprocess = preprocess_of(block, base, data)
        refuse_other_task(block, base, data)
        refuse_other_classes(block, base, data)
        model = align(base, data, block.classes)
    except ModelError as error:
        raise type(error)(error.what, where if error.where is None else f"{where} ({error.where})", error.fix) from error
    check_outputs(model, data, where)
    model = in_pairs(model, data)
    preview = preview_of(name, model, data)
    return Source(name, model, member_of(name, model), preview)


def in_pairs(model: Model, data: DataSet) -> Model:
    """Two classes as two logits, whatever the model has."""
    if data.task != "classification" or data.outputs != 2 or count_outputs(model, data) == 2:
        return model
    if model.table is not None:
        return replace(model, table=(model.table[0], as_binary(model.table[1], 2)))
    return replace(model, module=BinaryHead(model.network, 2).eval())


def member_of(name: str, model: Model) -> Member | None:
    """The plain network of an aligned model, and what was wrapped around it."""
    if model.module is None:
        return None
    network, pair, affine, select = model.network, False, None, None
    if isinstance(network, BinaryHead):
        network, pair = network.network, True
    if isinstance(network, Rescaled):
        affine, network = (network.factor.tolist(), network.shift.tolist()), network.network
    if isinstance(network, SelectedOutputs):
        select, network = network.outputs.tolist(), network.network
    return Member(name, replace(model, module=network), select, affine, pair)


def refuse_other_task(block: ModelBlock, model: Model, data: DataSet) -> None:
    """
    Raises:
        ModelError: the source was made for another task than the data's.
    """
    task = _task_of(block, model)
    if task is not None and task != data.task:
        what = f"{model.source} was made for {task}, and the data's labels are for {data.task}"
        raise ModelError(what, fix="all sources of a fusion have one task; leave it out, or set data.task")


def _task_of(block: ModelBlock, model: Model) -> str | None:
    """What a model's outputs mean, where that can be told."""
    summary = Path(block.source.removeprefix("run:").partition("#")[0]).expanduser() / "summary.json"
    if block.source.startswith("run:") and summary.is_file():
        try:
            return json.loads(summary.read_text(encoding="utf-8")).get("task")
        except (ValueError, OSError, AttributeError):
            return None
    if model.table is not None:
        return None  # it was read as what the data are
    return "regression" if model.target is not None else None


def refuse_other_classes(block: ModelBlock, model: Model, data: DataSet) -> None:
    """
    Raises:
        ModelError: the source names its classes, and they are not those of the data.
    """
    if block.classes is not None or model.classes is None or not data.classes:
        return
    missing = [name for name in data.classes if name not in model.classes]
    if not missing:
        return
    known = [name for name in data.classes if name in model.classes]
    kind = SomeClasses if known and set(model.classes) <= set(data.classes) else ModelError
    what = f"its classes contradict the data's: it knows {_listed(model.classes)}; the data have {_listed(data.classes)}"
    fix = "say which output is which class: classes: {name: output number, ...}"
    if known:
        fix = f"it doesn't know {_listed(missing)}; how=amalgamate joins sources with different classes, or {fix}"
    raise kind(what, fix=fix)


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def preview_of(name: str, model: Model, data: DataSet) -> Tensor:
    """What a source says about the first validation samples (a table: about all of them).

    Raises:
        ModelError: NaN or infinity, the same for every sample, or no answer for some of the validation or test samples.
    """
    where = f"sources.{name}"
    if model.table is not None:
        for part, samples in (("validation", data.val), ("test", data.test)):
            rows = table_rows(model, samples)
            lacking = np.flatnonzero(rows < 0)
            if len(lacking):
                what = f"{model.source} has no prediction for {len(lacking)} of {len(samples)} {part} samples"
                fix = f"the first is '{samples.ids[lacking[0]]}'; the table's ids look like {model.table[0][:2].tolist()}"
                raise ModelError(what, where, fix)
        said = model.table[1][torch.from_numpy(table_rows(model, data.val))].float()
    else:
        assert model.preprocess is not None
        said = predict(model.network, pools.subset(data.val, np.arange(min(PROBES, len(data.val)))), model.preprocess)
    wrong = torch.nonzero(~said.isfinite().all(1))
    if len(wrong):
        first = f"first '{data.val.ids[int(wrong[0])]}'"
        what = f"{model.source} says NaN or infinity about {len(wrong)} of {len(said)} validation samples, {first}"
        raise ModelError(what, where, "check its weights and its preprocess, or leave it out")
    spread = (said.amax(0) - said.amin(0)).max()
    if len(said) > 1 and float(spread) <= _FLAT * float(said.abs().max().clamp(min=1e-12)):
        what = f"{model.source} says the same about each of {len(said)} validation samples"
        raise ModelError(what, where, "check its weights and its preprocess (scale, mean, std), or leave it out")
    return said


def refuse_twins(sources: Sequence[Source], data: DataSet) -> None:
    """
    Raises:
        RecipeError: two sources are one model: the same weights and preprocessing, or the same answers.
    """
    for place, one in enumerate(sources):
        for other in sources[place + 1 :]:
            count = min(len(one.preview), len(other.preview))
            same = torch.equal(one.preview[:count], other.preview[:count])
            if not same and not _same_state(one, other):
                continue
            how = "have the same weights" if _same_state(one, other) else f"say exactly the same about {count} validation samples"
            what = f"'{one.name}' and '{other.name}' are copies of one model: they {how}"
            raise RecipeError(what, "sources", "remove one of them: a copy adds nothing and counts twice")


def _same_state(one: Source, other: Source) -> bool:
    if one.member is None or other.member is None or one.model.preprocess != other.model.preprocess:
        return False
    first, second = (source.member.model.network.state_dict() for source in (one, other) if source.member is not None)
    return first.keys() == second.keys() and key.hash_tensors(dict(first)) == key.hash_tensors(dict(second))


def refuse_unlabelled(data: DataSet, labelled: int) -> None:
    """
    Raises:
        DataError: nothing to choose by.
    """
    if labelled < 2:
        raise DataError(f"{labelled} validation samples have a label, so nothing can be fitted or chosen", "data", "label some of them")


def runs_elsewhere(source: Source) -> bool:
    """Whether a source is a network that only its own file and runtime hold (ONNX, torch.export): no other file can tell how to make it."""
    return source.model.module is not None and source.model.architecture is None and not source.model.source.startswith("live:")


def refuse_or_say_what_ships(recipe: FuseRecipe, sources: Mapping[str, Source], context: Context) -> None:
    """What becomes of a fusion without a student if some sources can't be put into a file; said, and refused where it is to be exported.

    Raises:
        RecipeError: a format is asked for, and there will be no network to write.
    """
    tables = tables_among(sources)
    fixed = [name for name, source in sources.items() if runs_elsewhere(source)]
    found = [f"{', '.join(tables)}: a table answers for known samples only, so what is fused with it is a table, too"] if tables else []
    if fixed:
        text = f"{', '.join(fixed)}: a network that only its own file and runtime hold can't be put into another one"
        found.append(f"{text}, so what is fused with it is shipped as a table of answers")
    for text in found if recipe.student is None else ():
        if recipe.export:
            raise RecipeError(f"{text}, which no format can hold", "export", "give a student, which learns from the fusion and is exported")
        context.say(f"{text}; give a student to ship a network")


def tables_among(sources: Mapping[str, Source]) -> list[str]:
    """Names of the sources that are tables: they answer for known samples only."""
    return [name for name, source in sources.items() if source.model.table is not None]
