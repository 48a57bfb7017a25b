"""What a trained network's block says beside its source: a head of another form, whose weights it begins with."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import Tensor

from transfuse import models
from transfuse.core.outputs import answer_with_main_output, main_name, main_output, named_tensors
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataSet, Model, ModelRequest
from transfuse.errors import ModelError, RecipeError, TransfuseError
from transfuse.models import heads
from transfuse.models.heads.placing import renew_head
from transfuse.recipe.blocks import LearnerBlock, ModelBlock

KEYS = ("architecture", "options", "trusted", "preprocess", "classes")  # of a model's block, which a source's error may name


def opened(source: str, request: ModelRequest, where: str) -> Model:
    """Opens a model for the block at a key of the recipe, which is where its errors then are.

    Raises:
        ModelError: it can't be opened.
    """
    try:
        return models.open_model(source, request)
    except ModelError as error:
        if error.where not in KEYS:
            raise
        raise ModelError(error.what, f"{where}.{error.where}", error.fix) from error


def answer_with_logits(model: Model, output: Any) -> Any:
    """Makes a network answer with its logits alone where it answers with a tuple or an object that holds them; gives its new answer.

    Args:
        model: a network.
        output: what it answered.
    """
    tensors = named_tensors(output)
    if isinstance(output, Tensor) or not tensors:
        return output
    answer_with_main_output(model.network)
    model.notes.append(f"it answers with {', '.join(tensors)}; {main_name(tensors)} is taken for its logits")
    return main_output(output)


def with_head(model: Model, block: ModelBlock, data: DataSet, seen: tuple[Tensor, Any], seed: int, where: str) -> None:
    """Gives a network the head that its block asks for, in place, or a plain one where it asks for none and the data have other outputs.

    Args:
        model: opened.
        block: the recipe's.
        data: opened.
        seen: inputs, and what the network answered to them.
        seed: of the new weights.
        where: the block's key.

    Raises:
        ModelError: no head is found, or the network doesn't run with the new one.
    """
    example, answer = seen
    known = answer.shape[1] if isinstance(answer, Tensor) and answer.ndim == 2 else None
    single = data.task == "classification" and data.outputs == 2 and known == 1  # the log-odds of the second class, also of a new head
    if isinstance(block, LearnerBlock) and block.head is not None:
        name, settings = next(iter(block.head.items()))
        try:
            model.notes += renew_head(model, heads.get(name)(**settings), 1 if single else data.outputs, example, seed)
        except ValueError as error:
            raise RecipeError(str(error), where=f"{where}.head.{name}") from error
        except TransfuseError as error:
            inside = error.where or ""
            raise ModelError(error.what, f"{where}.{inside if inside.startswith('head') else 'head'}", error.fix) from error
    elif known is not None and known != data.outputs and not single:
        why = f"{model.source} predicts {known} values, the data have {data.outputs} {'targets' if data.target else 'classes'}"
        try:
            renew_head(model, heads.get("linear")(), data.outputs, example, seed)
        except ModelError as error:
            raise ModelError(f"{why}, and {error.what}", f"{where}.head", error.fix) from error
        model.notes.append(f"the last layer was replaced: {why}")


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
    model = opened(block.source, request, where)
    if block.preprocess is not None:
        model.preprocess = Preprocess.from_dict({"scale": (model.preprocess or data.preprocess).scale, **block.preprocess})
    if block.classes is not None or (model.classes is not None and sorted(model.classes) == sorted(data.classes)):
        model = models.fit_to_classes(model, data.classes, block.classes)  # the rows of its last layer in the data's order
    return model


def preprocess_of_start(block: ModelBlock, data: DataSet, where: str) -> Preprocess | None:
    """How the inputs of the network whose weights are taken are made: weights go with the inputs that they were trained for.

    None where the block begins with no other network's weights, or with a teacher's.
    """
    if not isinstance(block, LearnerBlock) or block.init is None:
        return None
    name, settings = next(iter(block.init.items()))
    value = settings["source"]
    if value is None or (isinstance(value, str) and ":" not in value):
        return None
    return open_source(value, data, f"{where}.init.{name}.source").preprocess
