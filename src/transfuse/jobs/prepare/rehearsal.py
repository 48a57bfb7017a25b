"""The look at a job's objectives before it makes its folder: each is tried once on signals of its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transfuse.core.types import Batch, DataSet, Model, Samples, Signals, WeightedObjective
from transfuse.engine.loader import is_labelled, mixed_classes, mixed_values
from transfuse.engine.order import Order
from transfuse.engine.rehearsal import FEW, Rehearsal, refuse_split, signals
from transfuse.jobs.parts.answers import form_of
from transfuse.jobs.parts.networks import device_of
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import CacheBlock, TrainBlock


@dataclass(frozen=True)
class Circumstances:
    """In what an objective has to work, beside its networks.

    Attributes:
        data: where the networks' inputs come from.
        pool: what the student learns from.
        order: which samples a step sees, over all ranks.
        train, augment, cache: the recipe's blocks, resolved.
        peers: names of the networks that learn beside the student.
    """

    data: DataSet
    pool: Samples
    order: Order
    train: TrainBlock
    augment: AugmentBlock
    cache: CacheBlock
    peers: Sequence[str] = ()


def refuse_impossible(objectives: Sequence[WeightedObjective], student: Model, teachers: Mapping[str, Model], given: Circumstances) -> None:
    """Objectives that fail on a step of this job. Those that measure something first (`probe`) are not tried: that takes a training's data.

    Args:
        objectives: connected.
        student: with the network that is trained.
        teachers: those that they ask, by name, with outputs in the student's form.
        given: the job's data, batches and settings.

    Raises:
        RecipeError: one can't work here, or a batch whose samples it relates would be split.
    """
    related = [weighted.name for weighted in objectives if weighted.card.level == "batch"]
    refuse_split(related, given.train.accumulate, given.train.allow_batch_split, "train.accumulate")
    tried = [weighted for weighted in objectives if not hasattr(weighted.objective, "probe")]
    paths = list(dict.fromkeys(path for weighted in tried for path in weighted.student_taps))
    said = signals(student.network, _shown(student, given.data), paths)
    asked = {name: _said(name, teachers[name], tried, given) for name in dict.fromkeys(one for each in tried for one in each.teachers)}
    pieces = given.train.accumulate
    Rehearsal(_batch(given), student.network, said, asked, given.peers, pieces).refuse(tried)


def _shown(model: Model, data: DataSet) -> Tensor:
    assert model.preprocess is not None
    return data.train.exact(range(min(FEW, len(data.train))), model.preprocess).to(device_of(model.network))


def _said(name: str, model: Model, objectives: Sequence[WeightedObjective], given: Circumstances) -> Signals:
    """What a teacher says about a few samples, in the form in which training gets it."""
    if model.table is not None:
        return Signals(model.table[1][:FEW].float())
    asking = [weighted for weighted in objectives if name in weighted.teachers]
    paths = list(dict.fromkeys(path for weighted in asking for path in weighted.taps_of(name)))
    said = signals(model.network, _shown(model, given.data), paths)
    live = given.augment.views == "fresh" or any("rotations" in weighted.card.needs for weighted in asking)
    if not isinstance(given.cache.top_k, int) or live or paths:
        return said
    form = form_of(given.cache, said.logits.shape[-1])
    return Signals(said.logits[:, :0], {}, form.decode(form.encode(said.logits), said.logits.device))  # type: ignore[arg-type]


def _batch(given: Circumstances) -> Batch:
    """The first step's samples with their labels; in a job of one domain those without a label are shown with another one's."""
    pool, (ids, _) = given.pool, given.order.batch(0)
    known, domains = is_labelled(pool.labels), given.order.domains(ids)
    if domains is None and bool(known.any()):
        others = known.nonzero()[:, 0]
        labels = pool.labels[torch.where(known[ids], ids, others[torch.arange(len(ids)) % len(others)])]
    else:
        labels = pool.labels[ids]
    probabilities, classes = None, len(given.data.classes)
    if given.augment.mixes:
        half = torch.full((len(ids),), 0.5)
        if labels.is_floating_point():
            labels = mixed_values(labels, labels.flip(0), half)
        else:
            probabilities = mixed_classes(labels, labels.flip(0), half, classes)
    raw = pool.raw([0])
    inputs = raw.expand(len(ids), *raw.shape[1:])  # no objective needs to tell them apart
    return Batch(inputs, ids, torch.zeros_like(ids), labels, is_labelled(labels), probabilities, domains)
