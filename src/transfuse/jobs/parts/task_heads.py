"""The heads that other tasks have on a student's backbone, each as a network of its own: made, kept in the run folder, opened again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfuse import models
from transfuse.core.grafts import graft
from transfuse.core.heads import read_ending
from transfuse.core.seeds import fresh_weights
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.engine.steppers.tasks import TaskLoss
from transfuse.jobs.parts.networks import example, restore
from transfuse.models.classes import SelectedOutputs

CLOSE = 1e-3  # relative: the same sums in another order


def network_for(student: Model, target: DataSet, task: DataSet, head: nn.Linear | None = None) -> Model:
    """A copy of the student's network that ends in another task's head and answers with that task's classes.

    Args:
        student: stays as it is.
        target: the data that it is for.
        task: the other task's data.
        head: of that task; None: one whose weights come from a file.

    Raises:
        ModelError: there is no last layer in whose place another one could stand.
    """
    path = read_ending(student.network, example(student, target)).path
    network = student.network
    if isinstance(network, SelectedOutputs):  # a choice among outputs that another head doesn't have
        network, path = network.network, path.removeprefix("network.")
    network = copy.deepcopy(network).cpu()
    layer: Any = network.get_submodule(path)
    with fresh_weights(0):  # whose values nobody keeps; the job's random numbers go on as if nothing had been drawn
        graft(network, path, "replace", [_in_place_of(layer, head or nn.Linear(layer.weight.shape[1], task.outputs))])
    options = {**student.options, **({"outputs": task.outputs} if "outputs" in student.options else {})}
    return replace(student, module=network.eval(), options=options, classes=list(task.classes) or None, target=task.target, fresh=())


def _in_place_of(layer: Any, head: nn.Linear) -> nn.Module:
    """A head in the form of the last layer: a 1x1 convolution where that is one, so that what averages positions behind it finds them."""
    head = copy.deepcopy(head).cpu()
    if isinstance(layer, nn.Linear):
        return head
    fresh = type(layer)(head.in_features, head.out_features, 1, layer.stride, layer.padding)
    fresh.load_state_dict({"weight": head.weight.reshape(*head.weight.shape, *layer.kernel_size), "bias": head.bias})
    return fresh


def fits(student: Model, target: DataSet, task: DataSet) -> bool:
    """Whether a network of its own would say what the head says in training: the mean over positions, and the head alone behind it."""
    inputs = example(student, target)
    ending = read_ending(student.network, inputs)
    with fresh_weights(0):
        head = nn.Linear(ending.inputs.shape[1], task.outputs)
    with torch.no_grad():
        expected = head(ending.inputs)
        try:
            found = network_for(student, target, task, head).network(inputs)
        except (RuntimeError, ValueError, TypeError):  # what follows counts on as many outputs as there were
            return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= CLOSE * expected.abs().max())


def save(
    folder: Path,
    student: Model,
    target: DataSet,
    tasks: Mapping[str, DataSet],
    objectives: Sequence[WeightedObjective],
    about: dict[str, Any],
) -> None:
    """FOLDER/NAME.safetensors with its .json for every task that has learnt with a head of its own.

    Args:
        folder: made where something is kept.
        student: trained; its backbone is every task's.
        target: the data that it is for.
        tasks: the other tasks' data by name.
        objectives: the terms that it has learnt from, named like the tasks.
        about: more facts for each .json.
    """
    for weighted in objectives:
        loss = weighted.objective
        if isinstance(loss, TaskLoss) and isinstance(loss.head, nn.Linear) and fits(student, target, tasks[weighted.name]):
            folder.mkdir(parents=True, exist_ok=True)
            model = network_for(student, target, tasks[weighted.name], loss.head)
            models.save_model(model, folder / f"{weighted.name}.safetensors", about)


def kept(folder: Path, student: Model, target: DataSet, tasks: Mapping[str, DataSet]) -> dict[str, Model]:
    """The networks that `save` kept, by task.

    Raises:
        RunError: a file was damaged.
    """
    there = {name: folder / f"{name}.safetensors" for name in tasks if (folder / f"{name}.safetensors").exists()}
    return {name: restore(network_for(student, target, tasks[name]), path) for name, path in there.items()}
