"""Checks of what an objective computes: its value, its invariances, its gradient."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.types import Step
from transfuse.testing.case import Case, ObjectiveDefect, call_by_name, differs, gradients_differ, not_finite, run
from transfuse.testing.steps import Sizes, agreeing, is_student, map_tensors, step_table


def check_value(case: Case) -> None:
    """The value equals the reference in float64, on two steps of different sizes; one value per sample at sample level."""
    for sizes in (Sizes(), Sizes(batch=9, classes=7, seed=1)):
        step = case.step(sizes)
        objective = case.make(step)
        values = run(objective, step).values
        shape = (sizes.batch,) if case.card.level == "sample" else ()
        if tuple(values.shape) != shape:
            meaning = "one value per sample" if case.card.level == "sample" else "a scalar"
            raise ObjectiveDefect("value", f"gives shape {tuple(values.shape)}; at {case.card.level} level it is {meaning}: {shape}")
        problem = differs(values, case.expected(objective, step), case.particulars.tolerance)
        if problem:
            raise ObjectiveDefect("value", f"differs from the reference: {problem}")


def check_equality(case: Case) -> None:
    """Where the student says what the teacher says, value and gradient are finite, and the value is 0 if it is to be."""
    step = agreeing(case.step())
    if step is None:
        if case.zero_at_equality:
            raise ObjectiveDefect("equality", "the step's student and teacher differ in shape; hand a make_step in which they can agree")
        return
    outcome = run(case.make(step, trained=False), step)
    problem = not_finite(outcome)
    if problem:
        raise ObjectiveDefect("equality", f"student and teacher agree, and {problem}")
    if case.zero_at_equality and outcome.values.abs().max() > 1e-9:
        raise ObjectiveDefect("equality", f"student and teacher agree, and the value is {outcome.values.abs().max():.6g} instead of 0")


def check_invariance(case: Case) -> None:
    """Every declared transformation leaves the value as it is; so does another order of the samples."""
    step = case.step()
    objective = case.make(step)
    values = run(objective, step).values
    for fact, transform in case.invariance.items():
        problem = differs(run(objective, transform(step)).values, values, 1e-7)
        if problem:
            raise ObjectiveDefect("invariance", f"'{fact}' does not hold: {problem}")
    if case.card.level != "parameters":
        order = torch.randperm(len(step.batch), generator=torch.Generator().manual_seed(3))
        expected = values[order] if case.card.level == "sample" else values
        problem = differs(run(objective, step.select(order)).values, expected, 1e-7)
        if problem:
            raise ObjectiveDefect("invariance", f"the order of the samples matters: {problem}")


def check_halves(case: Case) -> None:
    """At sample level the values of a batch are the values of its halves, so that any split averages to the whole."""
    if case.card.level != "sample":
        return
    step = case.step()
    objective = case.make(step)
    middle, rows = len(step.batch) // 2, torch.arange(len(step.batch))
    halves = torch.cat([run(objective, step.select(half)).values for half in (rows[:middle], rows[middle:])])
    problem = differs(halves, run(objective, step).values, 1e-9)
    if problem:
        raise ObjectiveDefect("halves", f"the halves of a batch give other values than the whole: {problem}")


def _leaves(objective: nn.Module, step: Step) -> dict[str, Tensor]:
    leaves: dict[str, Tensor] = {}

    def note(path: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and is_student(path):
            leaves[path] = tensor
        return tensor

    map_tensors(step, note)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            leaves[f"objective.{name}"] = parameter
    return {path: leaf.detach().clone() for path, leaf in leaves.items()}


def _substituted(objective: nn.Module, step: Step, leaves: dict[str, Tensor]) -> tuple[nn.Module, Step, dict[str, Tensor]]:
    own = {path.removeprefix("objective."): leaf for path, leaf in leaves.items() if path.startswith("objective.")}
    return copy.deepcopy(objective), map_tensors(step, lambda path, tensor: leaves.get(path, tensor)), own


def check_gradient(case: Case) -> None:
    """The gradient is the derivative of the value, for the student's signals and the objective's own parameters (float64)."""
    step = case.step(Sizes(batch=4, classes=4, channels=4, student_spatial=(2, 2), teacher_spatial=(2, 2)))
    objective = case.make(step)
    leaves = _leaves(objective, step)
    if case.particulars.surrogate is not None:
        _check_surrogate(case, objective, step, leaves)
        return

    def values(*tensors: Tensor) -> Tensor:
        module, changed, own = _substituted(objective, step, dict(zip(leaves, tensors, strict=True)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torch.func.functional_call(module, own, (changed,))

    inputs = [leaf.requires_grad_() for leaf in leaves.values()]
    if not values(*inputs).requires_grad:
        raise ObjectiveDefect("gradient", "no gradient reaches the student or the objective's own parameters")
    fast = sum(leaf.numel() for leaf in inputs) > 100
    try:
        torch.autograd.gradcheck(values, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=fast)
    except RuntimeError as error:
        raise ObjectiveDefect("gradient", f"is not the derivative of the value: {error}") from error


def _check_surrogate(case: Case, objective: nn.Module, step: Step, leaves: dict[str, Tensor]) -> None:
    surrogate: Any = case.particulars.surrogate
    found = run(objective, step).gradients
    generator = torch.Generator().manual_seed(0)
    for path, leaf in leaves.items():  # one random direction per leaf: a wrong sign or factor of any of them is seen
        direction = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)

        def value(factor: float, path: str = path, leaf: Tensor = leaf, direction: Tensor = direction) -> Tensor:
            module, changed, own = _substituted(objective, step, {path: leaf + factor * direction})
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(own.get(name, parameter))
                return surrogate(module, changed, objective, step).sum()

        expected = (value(1e-6) - value(-1e-6)) / 2e-6
        gradient = found[path]
        along = torch.zeros_like(expected) if gradient is None else (gradient * direction).sum()
        if abs(along - expected) > 1e-4 * abs(expected) + 1e-6:
            raise ObjectiveDefect("gradient", f"of {path} is {along:.6g} along a direction in which it is to be {expected:.6g}")


def check_function(case: Case) -> None:
    """`<name>_loss` exists beside the class and agrees with it, defaults included."""
    wanted = case.objective_class.__name__.lower()
    found = [value for name, value in vars(case.module).items() if name.endswith("_loss") and name[:-5].replace("_", "") == wanted]
    if not found:
        raise ObjectiveDefect(
            "function", f"{case.module.__name__} has no function named after {case.objective_class.__name__} with '_loss'"
        )
    step = case.step()
    objective = case.make(step, trained=False)
    if case.particulars.function is not None:
        value = case.particulars.function(objective, step)
    else:
        given = {name: value for name, value in case.constructor_values().items() if value != "auto"}
        try:
            value = call_by_name(found[0], {**step_table(step, objective), **given})
            if not case.arguments:
                plain = call_by_name(found[0], step_table(step, objective))
                if differs(plain, value, 1e-9):
                    raise ObjectiveDefect("function", "has other defaults than the class")
        except TypeError as error:
            raise ObjectiveDefect("function", f"can't be called by name ({error}); hand Particulars(function=...)") from error
    problem = differs(value, run(objective, step).values, 1e-9)
    if problem:
        raise ObjectiveDefect("function", f"differs from the class: {problem}")


def check_gradient_flow(case: Case) -> None:
    """No gradient reaches a teacher; every trainable parameter of the objective gets one."""
    step = case.step()
    outcome = run(case.make(step), step, watch_teachers=True)
    for path, gradient in outcome.gradients.items():
        if not (is_student(path) or path.startswith("objective.")) and gradient is not None:
            raise ObjectiveDefect("gradient_flow", f"a gradient reaches {path}, which only answers; detach it")
        if path.startswith("objective.") and gradient is None:
            raise ObjectiveDefect("gradient_flow", f"no gradient reaches {path}, which the optimiser would hold for nothing")


def check_saved(case: Case) -> None:
    """state_dict, saved and loaded into a fresh objective, gives the same value; nothing trainable hides outside of it."""
    step = case.step()
    objective = case.make(step).train()
    for name, tensor in _hidden(objective):
        raise ObjectiveDefect("saved", f"{name} ({tensor}) is trainable, but not registered: no optimiser or checkpoint would hold it")
    objective = run(objective, step).objective.eval()  # after a step, banks and running statistics differ from a fresh objective's
    fresh = case.make(step, trained=False, seed=1)
    fresh.load_state_dict(copy.deepcopy(objective.state_dict()))
    after, before = run(fresh, step), run(objective, step)
    problem = differs(after.values, before.values, 1e-12) or gradients_differ(after, before, 1e-12)
    if problem:
        raise ObjectiveDefect("saved", f"a fresh objective with the saved state differs: {problem}")


def _hidden(objective: nn.Module) -> list[tuple[str, str]]:
    registered = {id(parameter) for parameter in objective.parameters()} | {id(module) for module in objective.modules()}
    hidden: list[tuple[str, str]] = []

    def look(name: str, value: Any) -> None:
        if id(value) in registered:
            return
        if isinstance(value, nn.Module) and any(parameter.requires_grad for parameter in value.parameters()):
            hidden.append((name, type(value).__name__))
        elif isinstance(value, Tensor) and value.requires_grad:
            hidden.append((name, f"tensor {tuple(value.shape)}"))
        elif isinstance(value, dict):
            for key, entry in value.items():
                look(f"{name}[{key!r}]", entry)
        elif isinstance(value, (list, tuple)):
            for number, entry in enumerate(value):
                look(f"{name}[{number}]", entry)

    for path, module in objective.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_modules", "_buffers"):
                look(f"{path}.{name}" if path else name, value)
    return hidden


def check_needs(case: Case) -> None:
    """The card's `needs` are all that the objective looks at: without the rest it gives the same value."""
    step, needs = case.step(), set(case.card.needs)
    objective = case.make(step)
    before, lean = run(objective, step).values, step
    if not needs & {"labels", "hard_labels"}:
        labels = torch.full_like(step.batch.labels, float("nan") if step.batch.labels.is_floating_point() else -1)
        lean = replace(lean, batch=replace(lean.batch, labels=labels, labelled=torch.zeros_like(step.batch.labelled)))
    if not any(need.startswith("teacher.") for need in needs):
        lean = replace(lean, teachers={})
    if not needs & {"teacher.logits", "teacher.logits.dense"}:
        blind = {name: replace(signals, logits=torch.full_like(signals.logits, float("nan"))) for name, signals in lean.teachers.items()}
        lean = replace(lean, teachers=blind)
    if "teacher.features" not in needs:
        lean = replace(lean, teachers={name: replace(signals, features={}) for name, signals in lean.teachers.items()})
    if "sample_ids" not in needs:
        lean = replace(lean, batch=replace(lean.batch, ids=torch.zeros_like(lean.batch.ids)))
    lean = replace(
        lean,
        peers=lean.peers if "peers" in needs else {},
        second=lean.second if "two_views" in needs else None,
        rotations=lean.rotations if "rotations" in needs else (),
    )
    if lean.parameters and case.card.level != "parameters" and "student.head" not in needs:
        lean = replace(lean, parameters={})
    try:
        problem = differs(run(objective, lean).values, before, 1e-12)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, StopIteration) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise ObjectiveDefect("needs", f"the value depends on something that the card's needs {sorted(needs)} leave out: {problem}")
