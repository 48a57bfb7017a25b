"""Opening a job's networks and making their outputs mean what the data mean."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfuse import models
from transfuse.core import seeds
from transfuse.core.grafts import grafts_of, regraft
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataSet, Model, ModelRequest, Target
from transfuse.errors import ModelError, RecipeError, RunError
from transfuse.jobs.parts import learner
from transfuse.models.classes import Around, Rescaled, SelectedOutputs
from transfuse.models.saving import read_sidecar
from transfuse.models.weights import load_into, read_state
from transfuse.recipe.blocks import ModelBlock

BUILTIN_SIDE = 32  # pixels; what the built-in families are made for


def rescaling(given: Target, wanted: Target) -> tuple[Tensor, Tensor]:
    """(factor, shift) that take a prediction from one scaling to another: (z * std + mean - new mean) / new std."""
    new_std = torch.tensor(wanted.std)
    return torch.tensor(given.std) / new_std, (torch.tensor(given.mean) - torch.tensor(wanted.mean)) / new_std


class BinaryHead(Around):
    """A two-class network whose answers have one logit or two, as asked; see `as_binary`.

    Args:
        network: gives one logit or two.
        outputs: 1 or 2.
    """

    def __init__(self, network: nn.Module, outputs: int):
        super().__init__(network)
        self.wanted = outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return as_binary(self.network(inputs), self.wanted)


def as_binary(logits: Tensor, outputs: int) -> Tensor:
    """Logits of two classes as one (the log-odds of the second class) or as two (0, log-odds).

    The probabilities are the same at every temperature: sigmoid((z_1 - z_0) / T) = softmax((z_0, z_1) / T)_1.
    """
    if logits.shape[-1] == outputs:
        return logits
    if outputs == 1:
        return logits[:, 1:] - logits[:, :1]
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def request_for(block: ModelBlock, data: DataSet, seed: int, fresh: bool) -> ModelRequest:
    """What a model source is asked for; a fresh network gets as many outputs as the data have."""
    return ModelRequest(
        outputs=data.outputs if fresh else None,
        input_shape=data.input_shape,
        architecture=block.architecture,
        options=dict(block.options),
        trusted=block.trusted,
        seed=seed,
        task=data.task,
    )


def open_student(
    block: ModelBlock, data: DataSet, seed: int, live: nn.Module | None, peer: str | None = None, key: str = "student"
) -> Model:
    """The student (or a peer) with its initial weights: the same bits for the same seed, so for the control too.

    A network that has other outputs than the data gets a fresh last layer.

    Args:
        block: the recipe's.
        data: opened.
        seed: the run's.
        live: in place of the block's source.
        peer: its name.
        key: of the block in the recipe, where it is no peer's.

    Raises:
        ModelError: unknown, can't take the data's inputs, or has no last layer that could be replaced.
        RecipeError: nothing in it can be trained.
    """
    where = key if peer is None else f"peers.{peer}"
    if live is not None:
        model = models.open_model(copy.deepcopy(live), ModelRequest())
    else:
        model = learner.opened(block.source, request_for(block, data, initial_seed(seed, peer), fresh=True), where)
    if model.table is not None:
        raise ModelError(f"{model.source} is a table: it can't be trained", where, fix="use it as a teacher, or name a network")
    start = learner.preprocess_of_start(block, data, where)
    model.preprocess = start if start is not None and block.preprocess is None else preprocess_of(block, model, data)
    model.classes, model.target = list(data.classes) or None, data.target
    output = answer_of(model, data, where)
    if model.architecture is None:
        output = learner.answer_with_logits(model, output)
    learner.with_head(model, block, data, (example(model, data), output), initial_seed(seed, peer), where)
    check_outputs(model, data, where)
    refuse_frozen(model, where)
    return model


def refuse_frozen(model: Model, where: str) -> None:
    """
    Raises:
        RecipeError: the network has no parameter that a training could change.
    """
    if not any(parameter.requires_grad for parameter in model.network.parameters()):
        what = f"every parameter of {model.source} is frozen (requires_grad=False), so there is nothing to train"
        raise RecipeError(what, where, "call requires_grad_(True) on what is to be trained")


def initial_seed(seed: int, peer: str | None = None) -> int:
    """What the student's, or a peer's, untrained weights are drawn from: a seed for each, so that equal architectures begin differently."""
    return seeds.derive(seed, "init", "student") if peer is None else seeds.derive(seed, "init", "peers", peer)


def open_teacher(name: str, block: ModelBlock, data: DataSet, seed: int, live: nn.Module | None, trained_here: bool) -> Model:
    """A teacher whose outputs are in the data's class order (or scaling).

    Raises:
        ModelError: unknown, untrained, or its outputs don't match the data.
    """
    if live is not None:
        model = models.open_model(copy.deepcopy(live), ModelRequest())  # the caller's own is neither frozen, trained nor moved
        if data.target is not None and not trained_here:  # people's own networks predict what they want to know, not standard deviations
            names = data.target.names
            model.target = Target(names, [0.0] * len(names), [1.0] * len(names))
            model.notes.append("its predictions are taken to be in the targets' own units")
    else:
        request = request_for(block, data, seeds.derive(seed, "init", name), fresh=trained_here)
        if block.source.startswith("builtin:"):
            request.outputs = data.outputs
        model = learner.opened(block.source, request, f"teachers.{name}")
    if model.module is not None and not model.pretrained and not trained_here:
        key = "teacher" if name == "teacher" else f"teachers.{name}"
        fix = f"train it here with {key}.train.epochs=30, or give a source with weights (file:, run:, timm: with a tag)"
        raise ModelError(f"{model.source} has no trained weights: it knows nothing to teach", where=f"teachers.{name}", fix=fix)
    model.preprocess = preprocess_of(block, model, data)
    output = None
    if model.module is not None and model.architecture is None:  # nothing but an answer tells how many outputs it has
        output = learner.answer_with_logits(model, answer_of(model, data, f"teachers.{name}"))
    if trained_here:
        refuse_frozen(model, f"teachers.{name}")
        model.classes, model.target = list(data.classes) or None, data.target
        if model.pretrained:
            model.notes.append("it has trained weights and is trained further here, as the recipe says `train`")
    else:
        model = align(model, data, block.classes, output.shape[-1] if isinstance(output, Tensor) and output.ndim == 2 else None)
    check_outputs(model, data, f"teachers.{name}")
    return model


def restore(model: Model, path: Path) -> Model:
    """Puts trained weights, kept by an earlier stage, into a network of the same make; works for live modules as well.

    Raises:
        RunError: the file was damaged, or the recipe was changed since.
    """
    network = model.network.network if isinstance(model.network, SelectedOutputs) else model.network
    try:
        sidecar = read_sidecar(path)
        if sidecar is not None and sidecar.grafts[: len(grafts_of(network))] == grafts_of(network):  # a new head may be there already
            regraft(network, sidecar.grafts[len(grafts_of(network)) :])
        load_into(network, read_state(path, trusted=False), str(path))
    except ModelError as error:
        raise RunError(error.what, where=str(path), fix=f"delete {path.name} and resume: that network is then trained again") from error
    model.pretrained = True
    return model


def align(model: Model, data: DataSet, mapping: dict[str, int] | list[str] | None, outputs: int | None = None) -> Model:
    """Outputs in the data's class order, or in its regression scaling; `outputs` is how many there are, where that was seen."""
    if data.target is None:
        return models.fit_to_classes(model, data.classes, mapping, outputs)
    if model.target is None or (model.target.mean, model.target.std) == (data.target.mean, data.target.std):
        return model
    if len(model.target.mean) != len(data.target.mean):
        return model  # refused by `check_outputs`, with both counts
    if model.table is not None:
        ids, predictions = model.table
        factor, shift = rescaling(model.target, data.target)
        return replace(model, table=(ids, predictions * factor + shift), target=data.target)
    network = Rescaled(model.network, *rescaling(model.target, data.target))
    return replace(model, module=network.eval(), target=data.target)


def with_head_of(student: Model, model: Model, data: DataSet) -> Model:
    """A two-class teacher whose answers have as many logits as the student's, one or two; any other as it is."""
    if data.task != "classification" or data.outputs != 2:
        return model
    wanted = count_outputs(student, data)
    if count_outputs(model, data) == wanted:
        return model
    if model.table is not None:
        return replace(model, table=(model.table[0], as_binary(model.table[1], wanted)))
    return replace(model, module=BinaryHead(model.network, wanted).eval())


def count_outputs(model: Model, data: DataSet) -> int:
    """How many numbers a model says per sample."""
    if model.table is not None:
        return model.table[1].shape[-1]
    device = next((parameter.device for parameter in model.network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        return model.network.eval()(example(model, data).to(device)).shape[-1]


def preprocess_of(block: ModelBlock, model: Model, data: DataSet) -> Preprocess:
    """The recipe's, else the model's own, else the data's statistics; somebody's own network gets their own data as they are."""
    if block.preprocess is not None:  # 8-bit pictures are 0..255 for nobody's mean and std, so the scale is never 1 by silence
        return Preprocess.from_dict({"scale": (model.preprocess or data.preprocess).scale, **block.preprocess})
    if model.preprocess is None and model.source.startswith("live:") and data.source == "live":
        model.notes.append("it gets the inputs as they are" + (", pictures in 0..1" if data.modality == "image" else ""))
        return Preprocess(scale=data.preprocess.scale)
    return model.preprocess or data.preprocess


def check_outputs(model: Model, data: DataSet, where: str) -> None:
    """Runs one sample through the network.

    Raises:
        ModelError: it can't take the inputs, or predicts another number of values than the data have.
    """
    if model.table is not None:
        outputs = model.table[1].shape[-1]
    else:
        answer = answer_of(model, data, where)
        if not isinstance(answer, Tensor) or answer.ndim != 2:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ModelError(f"{model.source} gives {got}; logits of shape [batch, {data.outputs}] are needed", where=where)
        outputs = answer.shape[-1]
    single_logit = data.task == "classification" and data.outputs == 2 and outputs == 1
    if outputs != data.outputs and not single_logit:
        kind = "targets" if data.target else "classes"
        what = f"{model.source} predicts {outputs} values, the data have {data.outputs} {kind}"
        raise ModelError(what, where=where, fix="name the outputs to use: classes: {name: output number, ...}")


def answer_of(model: Model, data: DataSet, where: str) -> Any:
    """What a network answers to one sample, in whatever form.

    Raises:
        ModelError: it can't take the inputs.
    """
    shape = (1, *data.input_shape)
    try:
        prepared = example(model, data)
        shape = tuple(prepared.shape)
        with torch.no_grad():
            return model.network.eval()(prepared)
    except ModelError as error:
        raise ModelError(error.what, error.where or where, error.fix or "choose another model") from error
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:  # transformers assert the size of pictures
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"{model.source} can't take inputs of shape {shape}: {why}"
        pictures = f"say what it takes, such as {where}.preprocess={{size: 224, channels: 3}}, or " if data.modality == "image" else ""
        raise ModelError(what, where=f"{where}.preprocess" if pictures else where, fix=f"{pictures}choose another model") from error


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def example(model: Model, data: DataSet) -> Tensor:
    """One preprocessed sample, [1, ...]."""
    assert model.preprocess is not None
    return data.train.exact([0], model.preprocess)


def sizes_asked(blocks: Mapping[str, ModelBlock]) -> tuple[int, ...]:
    """Sides in pixels that a job's models say they want, without building them for the data."""
    found: list[int] = []
    for block in blocks.values():
        size: Any = (block.preprocess or {}).get("size")
        if size is None and block.source.startswith("builtin:") and "_tf" not in block.source and "mobilenetv1" not in block.source:
            size = BUILTIN_SIDE
        elif size is None and not block.source.startswith(("builtin:", "predictions:", "live:")):
            request = ModelRequest(architecture=block.architecture, options=dict(block.options), trusted=block.trusted)
            preprocess = models.open_model(block.source, request).preprocess
            size = preprocess.size if preprocess is not None else None
        if size is not None:
            found.append(int(size if isinstance(size, int) else max(size)))
    return tuple(found)
