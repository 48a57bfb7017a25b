"""One objective under proof: how it is made, run and differentiated, the same way in every check."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.signature import parameters
from transfuse.core.stages import prepared_parts
from transfuse.core.types import Step
from transfuse.testing.steps import Sizes, as_arrays, cast, is_student, is_teacher, map_tensors, step_table


class ObjectiveDefect(AssertionError):
    """A proof failed.

    Args:
        check: name of the check.
        what: what is wrong with the objective, in words.
    """

    def __init__(self, check: str, what: str):
        self.check, self.what = check, what
        super().__init__(f"{check}: {what}")


@dataclass(frozen=True)
class Particulars:
    """What the kit can't know by itself about an unusual objective; everything has a default.

    Args:
        card: the CARD, where the objective's module doesn't hold it.
        prepare: what happens once between construction and the first step; default: `build(student_shapes, teacher_shapes)` with the
            features' shapes by path, where the objective has it.
        function: (objective, step) -> the `<name>_loss` function's value, where the class does more than hand signals over by name
            (bridges, a choice by the kind of labels).
        surrogate: (objective, step, objective_0, step_0) -> values whose derivative at (objective_0, step_0) the gradient must be, where
            that is deliberately not the derivative of the value: detached weights, gradient reversal.
        skip: check -> reason why it can't apply.
        graph_breaks: why compilation may fall back to Python in between; a break costs a wait for the device in each step.
        waits: why a step has to wait for a GPU even so.
        tolerance: relative, of the value against the reference in float64.
    """

    card: Card | None = None
    prepare: Callable[[Any, Step], None] | None = None
    function: Callable[[Any, Step], Tensor] | None = None
    surrogate: Callable[[Any, Step, Any, Step], Tensor] | None = None
    skip: Mapping[str, str] = field(default_factory=dict)
    graph_breaks: str = ""
    waits: str = ""
    tolerance: float = 1e-8


@dataclass
class Outcome:
    """What one forward and backward pass gave.

    Attributes:
        values: the objective's value, detached.
        gradients: of values.sum(), by path: "student.logits", "objective.NAME"; None where the graph doesn't reach.
        objective: the copy that ran, with whatever the step changed in its buffers.
    """

    values: Tensor
    gradients: dict[str, Tensor | None]
    objective: nn.Module


def shapes_of(features: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(feature.shape) for path, feature in features.items()}


def build(objective: Any, step: Step) -> None:
    """Calls `build` as a job does after its dry forward."""
    if hasattr(objective, "build"):
        teacher = next(iter(step.teachers.values())).features if step.teachers else {}
        objective.build(shapes_of(step.student.features), shapes_of(teacher))


@dataclass
class Case:
    """An objective with all that its proof needs.

    Attributes:
        objective_class: the nn.Module under proof.
        reference: the slow float64 formula; see `transfuse.testing`.
        arguments: of its constructor.
        make_step: sizes -> a float64 step.
        card: its CARD.
        zero_at_equality: whether the value is 0 where student and teachers agree.
        invariance: fact -> transformation of a step that must not change the value.
        particulars: what is unusual.
    """

    objective_class: type[nn.Module]
    reference: Callable[..., Any]
    arguments: dict[str, Any]
    make_step: Callable[[Sizes], Step]
    card: Card
    zero_at_equality: bool
    invariance: Mapping[str, Callable[[Step], Step]]
    particulars: Particulars

    @property
    def module(self) -> ModuleType:
        return sys.modules[self.objective_class.__module__]

    def make(self, step: Step, dtype: torch.dtype = torch.float64, trained: bool = True, seed: int = 0) -> nn.Module:
        """A fresh objective for this step, in eval mode; `trained` moves its parameters away from their initial values.

        What a stage of its own prepares is kept as it is afterwards, as in training.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            objective = self.objective_class(**copy.deepcopy(self.arguments))
            (self.particulars.prepare or build)(objective, cast(step, torch.float32))
            if trained:
                with torch.no_grad():
                    for parameter in objective.parameters():
                        if parameter.requires_grad:
                            parameter += 0.1 * torch.randn_like(parameter)
            for part in prepared_parts(objective):
                part.requires_grad_(False)
        return objective.to(dtype).eval()

    def step(self, sizes: Sizes | None = None, dtype: torch.dtype = torch.float64) -> Step:
        return cast(self.make_step(sizes or Sizes()), dtype)

    def constructor_values(self) -> dict[str, Any]:
        """Constructor arguments, defaults included."""
        defaults = {entry.name: entry.default for entry in parameters(self.objective_class) if not entry.required}
        return {**defaults, **self.arguments}

    def expected(self, objective: nn.Module, step: Step) -> Tensor:
        """The reference's value, float64."""
        table = {name: as_arrays(value) for name, value in step_table(step, objective).items()}
        value = call_by_name(self.reference, {**table, **self.constructor_values()})
        return torch.as_tensor(value, dtype=torch.float64)


def call_by_name(function: Callable[..., Any], table: Mapping[str, Any]) -> Any:
    """Calls a function with those entries of the table that its parameters name.

    Raises:
        TypeError: a parameter without default is not in the table; the message lists what is.
    """
    named = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in table:
            named[name] = table[name]
        elif parameter.default is parameter.empty:
            known = ", ".join(sorted(table))
            raise TypeError(f"{getattr(function, '__name__', 'function')} asks for '{name}', which this step doesn't have; known: {known}")
    return function(**named)


def run(objective: nn.Module, step: Step, watch_teachers: bool = False) -> Outcome:
    """One forward and backward on a copy of the objective, with torch's generator seeded; nothing of the caller's changes."""
    objective = copy.deepcopy(objective)
    watched: dict[str, Tensor] = {}

    def leaf(path: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.is_floating_point() and (is_student(path) or (watch_teachers and is_teacher(path))):
            watched[path] = tensor = tensor.clone().requires_grad_()
        return tensor

    step = map_tensors(step, leaf)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = objective(step)
        watched.update({f"objective.{name}": parameter for name, parameter in objective.named_parameters() if parameter.requires_grad})
        gradients: dict[str, Tensor | None] = dict.fromkeys(watched)
        if values.requires_grad:
            found = torch.autograd.grad(values.sum(), list(watched.values()), allow_unused=True)
            gradients = dict(zip(watched, found, strict=True))
    return Outcome(values.detach(), gradients, objective)


def differs(found: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """None where two tensors agree up to tolerance times the largest expected entry; else the difference in words."""
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    found, expected = found.detach().double(), expected.detach().double()
    if not torch.isfinite(expected).all():
        return None if torch.equal(found, expected) else "the expected value is not finite"
    if found.numel() == 0:
        return None
    gap, scale = (found - expected).abs().max().item(), expected.abs().max().item()
    if gap <= tolerance * scale + tolerance * 1e-2:
        return None
    return f"{_short(found)} instead of {_short(expected)} (largest difference {gap:.3g})"


def _short(values: Tensor) -> str:
    entries = ", ".join(f"{value:.6g}" for value in values.flatten()[:4].tolist())
    return f"[{entries}{', …' if values.numel() > 4 else ''}]"


def gradients_differ(found: Outcome, expected: Outcome, tolerance: float) -> str | None:
    """The first gradient that differs, in words; a gradient that doesn't reach a tensor is the same as zero."""
    for path, gradient in expected.gradients.items():
        other = found.gradients.get(path)
        if gradient is None and other is None:
            continue
        filled = [torch.zeros(()) if entry is None else entry for entry in (other, gradient)]
        if other is None or gradient is None:
            filled = [entry.expand_as(filled[0] if gradient is None else filled[1]) for entry in filled]
        problem = differs(filled[0], filled[1], tolerance)
        if problem:
            return f"gradient of {path}: {problem}"
    return None


def not_finite(outcome: Outcome) -> str | None:
    """Which of value and gradients has a NaN or an infinity, in words."""
    if not torch.isfinite(outcome.values).all():
        return f"the value is {_short(outcome.values.double())}"
    for path, gradient in outcome.gradients.items():
        if gradient is not None and not torch.isfinite(gradient).all():
            return f"the gradient of {path} has NaN or infinity, the value is {_short(outcome.values.double())}"
    return None
