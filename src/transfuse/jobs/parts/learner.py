"""What a trained network's block says beside its source: a head of another form, whose weights it begins with."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from transfuse import models
from transfuse.core.outputs import answer_with_main_output, main_name, named_tensors
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataSet, Model, ModelRequest
from transfuse.errors import ModelError, RecipeError, TransfuseError
from transfuse.models import heads
from transfuse.models.classes import SelectedOutputs
from transfuse.models.heads.placing import put_head
from transfuse.recipe.blocks import LearnerBlock, ModelBlock


def answer_with_logits(model: Model, example: Tensor) -> None:
    """Makes a network given as an object answer with its logits alone where it answers with a tuple or an object that holds them."""
    with torch.no_grad():
        try:
            output = model.network.eval()(example)
        except (RuntimeError, ValueError, TypeError):
            return  # refused with the reason by whoever checks its outputs
    tensors = named_tensors(output)
    if not isinstance(output, Tensor) and tensors:
        answer_with_main_output(model.network)
        model.notes.append(f"it answers with {', '.join(tensors)}; {main_name(tensors)} is taken for its logits")


def with_head(model: Model, block: ModelBlock, data: DataSet, example: Tensor, seed: int, where: str) -> None:
    """Gives a network the head that its block asks for, in place; nothing where it asks for none.

    Raises:
        ModelError: no head is found, or the network doesn't run with the new one.
    """
    if not isinstance(block, LearnerBlock) or block.head is None:
        return
    if isinstance(model.network, SelectedOutputs):  # a choice among outputs that are about to go
        model.module = model.network.network
    name, settings = next(iter(block.head.items()))
    try:
        form = heads.get(name)(**settings)
        outputs = 1 if data.task == "classification" and _single_logit(model, example, data) else data.outputs
        fresh, notes = put_head(model.network, form, outputs, torch.cat([example, example]), seed)
    except ValueError as error:
        raise RecipeError(str(error), where=f"{where}.head.{name}") from error
    except TransfuseError as error:
        inside = error.where or ""
        raise ModelError(error.what, f"{where}.{inside if inside.startswith('head') else 'head'}", error.fix) from error
    model.fresh = tuple(fresh)
    if "outputs" in model.options:
        model.options["outputs"] = outputs
    model.notes += notes


def _single_logit(model: Model, example: Tensor, data: DataSet) -> bool:
    """Whether a network for two classes says the log-odds of the second, which its new head will do, too."""
    if data.outputs != 2:
        return False
    with torch.no_grad():
        answer = model.network.eval()(example)
    return isinstance(answer, Tensor) and answer.ndim == 2 and answer.shape[1] == 1


def open_source(value: str | dict[str, Any], data: DataSet, where: str) -> Model:
    """Opens the model whose weights are taken, by its string or block, as it is.

    Raises:
        RecipeError: the block has keys that no model has.
        ModelError: it can't be opened.
    """
    try:
        block = ModelBlock.model_validate({"source": value} if isinstance(value, str) else value)
    except ValidationError as error:
        why = "; ".join(problem["msg"] for problem in error.errors())
        raise RecipeError(f"is no model: {why}", where=where, fix="write run:PATH, or {source: ..., architecture: ...}") from error
    request = ModelRequest(None, data.input_shape, block.architecture, dict(block.options), block.trusted, 0, data.task)
    if block.source.startswith("builtin:"):
        request.outputs = data.outputs
    model = models.open_model(block.source, request)
    if block.preprocess is not None:
        model.preprocess = Preprocess.from_dict({"scale": (model.preprocess or data.preprocess).scale, **block.preprocess})
    if block.classes is not None or (model.classes is not None and sorted(model.classes) == sorted(data.classes)):
        model = models.fit_to_classes(model, data.classes, block.classes)  # the rows of its last layer in the data's order
    return model


def preprocess_of_start(block: ModelBlock, data: DataSet) -> Preprocess | None:
    """How the inputs of the network whose weights are taken are made: weights go with the inputs that they were trained for.

    None where the block begins with no other network's weights, or with a teacher's.
    """
    if not isinstance(block, LearnerBlock) or block.init is None:
        return None
    name, settings = next(iter(block.init.items()))
    value = settings["source"]
    if value is None or (isinstance(value, str) and ":" not in value):
        return None
    return open_source(value, data, f"init.{name}.source").preprocess
