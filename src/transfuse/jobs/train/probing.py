"""The look that an objective may take at networks and training samples before training, for what is measured once (Fisher information)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.core import seeds
from transfuse.core.types import DataSet, Model, Samples, Trial, WeightedObjective
from transfuse.engine.loader import is_labelled
from transfuse.errors import ModelError, RecipeError
from transfuse.jobs.context import Context

BATCH = 64


def probe(
    context: Context,
    data: DataSet,
    train: Samples,
    student: Model,
    teachers: Mapping[str, Model],
    objectives: Sequence[WeightedObjective],
    seed: int,
) -> dict[str, int]:
    """Lets objectives measure what they want to know, and says what it was.

    Returns:
        How many samples each teacher was shown for that.

    Args:
        context: the job.
        data: for the task.
        train: labelled samples to look at, regression labels as networks predict them.
        student: with its starting weights.
        teachers: by name; a table is no network to be looked at.
        objectives: connected.
        seed: of the choice of samples.
    """
    shown: dict[str, int] = {}

    def count(name: str, network: nn.Module, given: tuple[Tensor, ...]) -> None:
        shown[name] = shown.get(name, 0) + len(given[0])

    for weighted in objectives:
        if not hasattr(weighted.objective, "probe"):
            continue
        name = weighted.teachers[0] if len(weighted.teachers) == 1 else ""
        asked = teachers[name] if name and teachers[name].module is not None else None
        own, other = (trial(context, data, train, model, seed) if model is not None else None for model in (student, asked))
        counting = asked.network.register_forward_pre_hook(partial(count, name)) if asked else None
        try:
            found = weighted.objective.probe(own, other)  # type: ignore[operator]
        except (ValueError, ModelError) as error:
            raise RecipeError(str(error), where=f"objectives.{weighted.name}") from error
        finally:
            if counting is not None:
                counting.remove()
        if found:
            context.say(f"{weighted.name}: {found}")
    return shown


def trial(context: Context, data: DataSet, train: Samples, model: Model, seed: int) -> Trial:
    """A network with labelled training samples, in an order of the seed."""
    assert model.preprocess is not None
    preprocess = model.preprocess
    labelled = is_labelled(train.labels).nonzero()[:, 0]
    order = labelled[torch.randperm(len(labelled), generator=seeds.generator(seed, "probe"))]

    def batches(samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in order[:samples].split(BATCH):
            yield train.exact(rows, preprocess).to(context.device), train.labels[rows].to(context.device)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        outputs = outputs.float()
        if data.task == "regression":
            return (outputs - labels).square().mean(-1)
        if data.task == "multilabel" or outputs.shape[-1] == 1:
            return F.binary_cross_entropy_with_logits(outputs, labels.reshape(outputs.shape).float(), reduction="none").mean(-1)
        return F.cross_entropy(outputs, labels, reduction="none")

    return Trial(model.network.to(context.device).eval(), data.task, batches, loss)
