"""Runs a policy's phases one behind the other: each is a run of the one loop, or, of a head alone, a run on features computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse import models
from transfuse.core import ranks
from transfuse.core.heads import read_ending
from transfuse.core.policy import Phase
from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Mixture, Stepper, Teacher, Views
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.engine.loader import MemoryLoader, Openers, WorkerLoader
from transfuse.engine.loop import Outcome
from transfuse.engine.steppers.paced import Paced
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.errors import ModelError, RunError
from transfuse.jobs.context import Context
from transfuse.jobs.finetuning.pretrained import Course
from transfuse.jobs.parts.features import Extractor
from transfuse.jobs.parts.networks import example, restore
from transfuse.jobs.train.stages import has_checkpoint, with_minutes_left
from transfuse.jobs.train.training import Lesson, order_of, steps_of, teach
from transfuse.recipe.finetune import FinetuneRecipe

FEWER = 2  # features are computed first where that takes at most so many times the forward passes of training on them live


@dataclass
class Taught:
    """What a policy's training was.

    Attributes:
        outcome: of the last phase; seconds of all.
        phases: {"name", "steps", "seconds", "features"} of each.
        begun: state of the network when the last phase began, where there was one before it.
    """

    outcome: Outcome
    phases: list[dict[str, Any]]
    begun: dict[str, Tensor] | None


def follow(context: Context, recipe: FinetuneRecipe, model: Model, course: Course, data: DataSet, lesson: Lesson, views: Views) -> Taught:
    """Trains the model in place by a policy; goes on where an interrupted training stands.

    A phase that is over has left the network in PHASE.safetensors in the run folder. All phases together have the lesson's steps; each
    runs through the learning-rate schedule once.

    Args:
        context: the job; markers and checkpoints lie in its folder.
        recipe: for BatchNorm and the cache.
        model: dressed as the course says.
        course: phases.
        data: for the last phase's validation.
        lesson: of the whole training.
        views: augmentation.
    """
    steps = steps_of(lesson.train, order_of(lesson))
    told: list[dict[str, Any]] = []
    begun, begin = None, 0
    for number, phase in enumerate(course.phases[:-1]):
        end = min(max(begin + round(phase.share * steps), begin + 1), steps - 1)
        train = with_minutes_left(lesson.train, _seconds(told))
        part = replace(lesson, begin=begin, end=end, stage=phase.name, train=train, objectives=labels_alone(lesson.objectives))
        marker = context.rundir.path / f"{lesson.name}.{phase.name}.safetensors"
        if marker.exists():
            restore(model, marker)
        else:
            _phase(context, recipe, model, course, data, replace(part, pace=_pace(recipe, course, phase)), views, number)
            if ranks.rank() == 0:
                models.save_model(model, marker, {"phase": phase.name})
            ranks.barrier()
        told.append(context.ledger.get(f"phase.{lesson.name}.{number}", {}))
        begun = {name: value.detach().clone() for name, value in model.network.state_dict().items()}
        begin = end
    number, phase = len(course.phases) - 1, course.phases[-1]
    train = with_minutes_left(lesson.train, _seconds(told))
    part = replace(lesson, begin=begin, end=steps, train=train, pace=_pace(recipe, course, phase))
    outcome = _phase(context, recipe, model, course, data, part, views, number)
    told.append(context.ledger.get(f"phase.{lesson.name}.{number}", {}))
    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    return Taught(replace(outcome, seconds=_seconds(told)), told, begun)


def labels_alone(objectives: Sequence[WeightedObjective]) -> list[WeightedObjective]:
    """The terms of a phase before the last one: those that look at outputs and labels and learn nothing themselves; else all.

    What an objective learns in such a phase would be lost where a run is resumed behind it.
    """
    plain = [weighted for weighted in objectives if _is_plain(weighted)]
    return plain or list(objectives)


def _is_plain(weighted: WeightedObjective) -> bool:
    card = weighted.card
    apart = not weighted.teachers and not weighted.student_taps and not list(weighted.objective.parameters())
    return apart and card.level == "sample" and set(card.needs) <= {"labels", "hard_labels"}


def _seconds(told: Sequence[Mapping[str, Any]]) -> float:
    return sum(part.get("seconds", 0.0) for part in told)


def _pace(recipe: FinetuneRecipe, course: Course, phase: Phase) -> Callable[[Stepper], Stepper]:
    return lambda stepper: Paced(stepper, phase.rates, recipe.batchnorm, course.head)


def _phase(
    context: Context, recipe: FinetuneRecipe, model: Model, course: Course, data: DataSet, lesson: Lesson, views: Views, number: int
) -> Outcome:
    """One phase; what it was is remembered for the summary."""
    phase, path = course.phases[number], None
    if phase.head_alone and recipe.batchnorm != "train":
        path = as_it_began(context, lesson, number, head_on_features(model, course, data, lesson, views))
    if path is None:
        outcome = teach(context, model, data, lesson, views)
    else:
        outcome = _on_features(context, recipe, model, data, lesson, views, path)
    steps = (steps_of(lesson.train, order_of(lesson)) if lesson.end is None else lesson.end) - lesson.begin
    about = {"name": phase.name or "all", "steps": steps, "seconds": round(outcome.seconds, 3), "features": path is not None}
    context.keep(f"phase.{lesson.name}.{number}", about)
    return outcome


def as_it_began(context: Context, lesson: Lesson, number: int, path: str | None) -> str | None:
    """The path of the head where the phase is trained on features, as it was when it began: its checkpoints are of a head or of a network.

    Raises:
        RunError: it began in one process, on features, and several go on with it.
    """
    key = f"begun.{lesson.name}.{number}"
    began = context.ledger.get(key) if has_checkpoint(context, lesson.run) else None
    if began is None:
        context.keep(key, "features" if path is not None else "network")
    elif began == "features" and path is None:
        what = f"{lesson.run} began with the head alone, on features computed once, and several processes train the whole network"
        raise RunError(what, where=str(context.rundir.path), fix="resume it as one process")
    return None if began == "network" else path


def head_on_features(model: Model, course: Course, data: DataSet, lesson: Lesson, views: Views) -> str | None:
    """Path of the head where it can be trained on features that are computed first; None where the whole network has to run.

    That is so where the head is one linear layer that makes the outputs, every term looks at outputs and labels alone, samples are not
    mixed, and views repeat often enough for remembering to pay.
    """
    plain = all(map(_is_plain, lesson.objectives))
    count = views.views
    nobody = torch.zeros(1, dtype=torch.int64)
    if not plain or count is None or ranks.active() or views.mixture(nobody, nobody, 2) is not None:
        return None
    shown = (steps_of(lesson.train, order_of(lesson)) if lesson.end is None else lesson.end - lesson.begin) * lesson.train.batch_size
    if count * len(lesson.pool) > FEWER * shown:
        return None
    try:
        ending = read_ending(model.network, example(model, data))
    except ModelError:
        return None
    layer = model.network.get_submodule(ending.path)
    own = {id(parameter) for parameter in layer.parameters()} == {id(parameter) for parameter in course.head}
    return ending.path if own and ending.plain and isinstance(layer, nn.Linear) else None


class Remembered:
    """Views of features: the v-th row set of each sample, computed before. Satisfies core.protocols.Views.

    Args:
        views: of the pictures; says which view an epoch sees.
        features: float32 [views, samples, width].
    """

    second = None

    def __init__(self, views: Views, features: Tensor):
        self.views = views.views
        self._of_epoch, self._features = views.view_of_epoch, features

    def view_of_epoch(self, epoch: Tensor) -> Tensor:
        return self._of_epoch(epoch)

    def apply(self, raw: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        self._features = self._features.to(raw.device)  # they stay there: all are asked for in every epoch
        return self._features[views, ids]

    def mixture(self, ids: Tensor, views: Tensor, pool_size: int) -> Mixture | None:
        return None


def _on_features(context: Context, recipe: FinetuneRecipe, model: Model, data: DataSet, lesson: Lesson, views: Views, path: str) -> Outcome:
    """Trains the head, a layer of the model, on features of the rest in eval mode, which lie in the cache."""
    frozen = replace(model, module=copy.deepcopy(model.network).to(context.device))
    extractor = Extractor(context, frozen, (f"{path}@input",), recipe.cache)
    shown = torch.from_numpy(np.stack(extractor.views(lesson.pool, views, lesson.train.loader, len(data.classes) or None)))
    val = torch.from_numpy(extractor.exact(data.val))
    layer = model.network.get_submodule(path)
    pool = ArraySamples(shown[0], lesson.pool.labels, lesson.pool.ids)
    columns = replace(data, val=ArraySamples(val, data.val.labels, data.val.ids), modality="columns", input_shape=(shown.shape[2],))
    train = lesson.train.model_copy(update={"loader": "memory", "compile": False, "channels_last": False})
    context.say(
        f"{lesson.name}: the head learns on {shown.shape[2]} features of the frozen network, {extractor.computed:,} of them computed"
    )
    head = replace(model, module=layer, preprocess=Preprocess())
    outcome = teach(context, head, columns, replace(lesson, pool=pool, train=train), Remembered(views, shown))
    return replace(outcome, seconds=outcome.seconds + extractor.seconds)


def asked_live(start: Mapping[str, Model], context: Context, train: Any) -> Openers:
    """The starting network as a teacher that is asked anew in every step."""

    def opened(model: Model, loader: MemoryLoader | WorkerLoader) -> Teacher:
        assert model.preprocess is not None
        return LiveTeacher(model.network, model.preprocess, loader.fetch, context.device, train.precision, train.channels_last is True)

    return {name: partial(opened, model) for name, model in start.items()}
