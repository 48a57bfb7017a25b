"""Makes output k of a model mean class k of the data: by name, or as the recipe says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.registry import did_you_mean
from transfuse.core.types import Model
from transfuse.errors import ModelError


class Around(nn.Module):
    """A network whose outputs are read in another form; its modules are found under their own paths too, for taps.

    Args:
        network: whose answers these are.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" or name.startswith("__"):
                raise
            return getattr(super().__getattr__("network"), name)


class SelectedOutputs(Around):
    """A network with some of its outputs, in another order.

    The inner network's modules are found under their own paths too: `get_submodule("layer3")` works as before.

    Args:
        network: logits [batch, n].
        outputs: which of the n become outputs 0, 1, …
    """

    outputs: Tensor

    def __init__(self, network: nn.Module, outputs: list[int]):
        super().__init__(network)
        self.register_buffer("outputs", torch.tensor(outputs, dtype=torch.int64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs).index_select(1, self.outputs)


class Rescaled(Around):
    """A network whose outputs are multiplied and shifted: a regression in other units, a single logit that is for the other class.

    Args:
        network: outputs [batch, n].
        factor, shift: [n].
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, factor: Tensor, shift: Tensor):
        super().__init__(network)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs) * self.factor + self.shift


def fit_to_classes(model: Model, classes: list[str], mapping: dict[str, int] | list[str] | None, outputs: int | None = None) -> Model:
    """The model with outputs selected and ordered so that output k is class k of the data.

    Args:
        model: is not changed; the result shares its weights.
        classes: the data's, in order; empty (regression) returns the model as it is.
        mapping: {class of the data: output number}, or names of all outputs in order, or None: by the model's own class names.
        outputs: how many the model has, where its options don't tell; None: not known, and not checked here.

    Raises:
        ModelError: counts differ and no mapping says what to do; a class without output; an output that doesn't exist.
    """
    if not classes:
        return model
    count = _count(model) or outputs
    if isinstance(mapping, dict):
        return _select(model, classes, _by_number(mapping, classes, count, model.source))
    known = mapping if mapping is not None else model.classes
    if mapping is not None and count is not None and len(mapping) != count:
        raise ModelError(f"classes names {len(mapping)} outputs, the model has {count}", model.source, "name every output, in order")
    if mapping is not None:
        return _select(model, classes, _by_name(mapping, classes, model.source))
    if known is not None and known != classes and len(known) == len(classes) and set(known) == set(classes):
        single = count == 1 and len(classes) == 2
        fitted = _negated(model, classes) if single else _select(model, classes, [known.index(name) for name in classes])
        how = "its logit, which is for the second class, was negated" if single else "its outputs were reordered by name"
        fitted.notes.append(f"the model's classes are the data's in another order: {how}")
        return fitted
    if count == 1 and len(classes) == 2:
        return model  # a single logit: the log-odds of the second class
    if count is not None and count != len(classes):
        raise ModelError(f"the model has {count} outputs, the data {len(classes)} classes", model.source, _hint(known, classes))
    if known == classes:
        return model
    note = "the model names no classes" if known is None else f"the model's classes ({_some(known)}) are not the data's ({_some(classes)})"
    return replace(model, classes=list(classes), notes=[*model.notes, f"{note}: its outputs are taken in the data's order"])


def _count(model: Model) -> int | None:
    if model.table is not None:
        return model.table[1].shape[1]
    if isinstance(model.module, SelectedOutputs):
        return len(model.module.outputs)
    return model.options.get("outputs")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _hint(known: list[str] | None, classes: list[str]) -> str:
    if known is not None and set(classes) <= set(known):
        chosen = ", ".join(f"{name}: {known.index(name)}" for name in classes[:10])
        return f"choose outputs with classes: {{{chosen}{', …' if len(classes) > 10 else ''}}}"
    example = ", ".join(f"{name}: {number}" for number, name in enumerate(classes[:2]))
    return f"say which output is which class of the data, with its output numbers: classes: {{{example}, …}}"


def _by_number(mapping: dict[str, int], classes: list[str], count: int | None, source: str) -> list[int]:
    for name in mapping:
        if name not in classes:
            raise ModelError(
                f"classes: '{name}' is no class of the data{did_you_mean(str(name), classes)}", source, f"they are {_some(classes)}"
            )
    missing = [name for name in classes if name not in mapping]
    if missing:
        raise ModelError(f"classes says no output for {', '.join(map(repr, missing[:5]))}", source, "every class of the data needs one")
    for name, number in mapping.items():
        if number < 0 or (count is not None and number >= count):
            raise ModelError(f"classes: '{name}' is output {number}, the model has {count} (0 to {(count or 1) - 1})", source)
    numbers = [mapping[name] for name in classes]
    if len(set(numbers)) != len(numbers):
        raise ModelError("classes gives one output to two classes", source)
    return numbers


def _by_name(names: list[str], classes: list[str], source: str) -> list[int]:
    for name in classes:
        if name not in names:
            raise ModelError(f"classes names no output '{name}'{did_you_mean(name, names)}", source, "every class of the data needs one")
        if names.count(name) > 1:
            raise ModelError(f"classes names '{name}' twice", source)
    return [names.index(name) for name in classes]


def _select(model: Model, classes: list[str], numbers: list[int]) -> Model:
    if numbers == list(range(_count(model) or -1)):
        return replace(model, classes=list(classes), notes=list(model.notes))
    notes = list(model.notes)
    if model.table is not None:
        ids, logits = model.table
        return replace(model, table=(ids, logits[:, numbers]), classes=list(classes), notes=notes)
    network = model.network
    if isinstance(network, SelectedOutputs):
        numbers = [int(network.outputs[number]) for number in numbers]
        network = network.network
    return replace(model, module=SelectedOutputs(network, numbers).eval(), classes=list(classes), notes=notes)


def _negated(model: Model, classes: list[str]) -> Model:
    """A single logit is the log-odds of the second class, and its negative those of the first."""
    if model.table is not None:
        ids, logits = model.table
        return replace(model, table=(ids, -logits), classes=list(classes), notes=list(model.notes))
    network = Rescaled(model.network, torch.tensor([-1.0]), torch.tensor([0.0])).eval()
    return replace(model, module=network, classes=list(classes), notes=list(model.notes))
