"""Checks of what an objective survives: low precision, huge and constant signals, few classes and samples, missing labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transfuse.core.types import Step
from transfuse.errors import TransfuseError
from transfuse.testing.case import Case, ObjectiveDefect, Outcome, differs, gradients_differ, not_finite, run
from transfuse.testing.steps import Sizes, agreeing, cast, cast_signals, is_signal, is_student, map_tensors, unlabelled

HUGE = 1e4
STEEP = 1e4  # times the largest entry of the ordinary gradient, or of 1; right objectives stay below 100, a division by 1e-6 doesn't


def check_precision(case: Case) -> None:
    """bfloat16 and float16 signals give what the same values in float32 give: the maths is done in at least float32."""
    step = case.step(dtype=torch.float32)
    objective = case.make(step, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        low = cast_signals(step, dtype)
        try:
            found = run(objective, low)
        except RuntimeError as error:
            raise ObjectiveDefect("precision", f"{dtype} signals are refused by torch: {error}") from error
        if found.values.dtype not in (torch.float32, torch.float64):
            raise ObjectiveDefect("precision", f"{dtype} signals give a value in {found.values.dtype}; it is to be at least float32")
        expected = run(objective, cast_signals(low, torch.float32))
        problem = differs(found.values, expected.values, 1e-3) or gradients_differ(found, expected, 2e-2)
        if problem:
            raise ObjectiveDefect("precision", f"{dtype} signals and the same values in float32 differ: {problem}")


def check_extreme(case: Case) -> None:
    """Value and gradient are finite for logits of +-1e4 and features of that size, in float32 and as float16 signals."""
    generator = torch.Generator().manual_seed(5)

    def huge(path: str, tensor: Tensor) -> Tensor:
        if not is_signal(path, tensor):
            return tensor
        random = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return HUGE * (random.sign() if path.endswith("logits") else random.clamp(-3, 3))

    step = map_tensors(case.step(dtype=torch.float32), huge)
    objective = case.make(case.step(), torch.float32)
    for name, extreme in {"differing": step, "agreeing": agreeing(step)}.items():
        if extreme is None:
            continue
        for dtype in (torch.float32, torch.float16):
            problem = not_finite(run(objective, cast_signals(extreme, dtype)))
            if problem:
                raise ObjectiveDefect("extreme", f"{name} signals of +-1e4 in {dtype}: {problem}")


def check_constant(case: Case) -> None:
    """Value and gradient are finite, and not huge, where a model says nothing: equal logits, features of a dead layer."""
    step = case.step(dtype=torch.float32)
    objective = case.make(step, torch.float32)
    steepest = STEEP * max([1.0, *_steepness(run(objective, step)).values()])
    for whose in ("student", "teachers", "all"):

        def silent(path: str, tensor: Tensor, whose: str = whose) -> Tensor:
            chosen = is_signal(path, tensor) and (whose == "all" or is_student(path) == (whose == "student"))
            return torch.zeros_like(tensor) if chosen and not path.startswith("parameters") else tensor

        outcome = run(objective, map_tensors(step, silent))
        problem = not_finite(outcome)
        if not problem:
            steep = {path: size for path, size in _steepness(outcome).items() if size > steepest}
            problem = ", ".join(f"the gradient of {path} has an entry of {size:.3g}; bound it" for path, size in steep.items())
        if problem:
            raise ObjectiveDefect("constant", f"all signals of {whose} are 0: {problem}")


def _steepness(outcome: Outcome) -> dict[str, float]:
    """Size of the largest entry of every gradient, by path."""
    found = {path: gradient for path, gradient in outcome.gradients.items() if gradient is not None and gradient.numel()}
    return {path: gradient.abs().max().item() for path, gradient in found.items()}


def check_small(case: Case) -> None:
    """Two classes, one sample, unequal spatial sizes: they give what the reference gives, or are refused with the reason."""
    odd = {"two classes": Sizes(classes=2), "one sample": Sizes(batch=1)}
    if case.step().student.features:
        odd["a smaller teacher map"] = Sizes(teacher_spatial=(2, 2))
        odd["a smaller student map"] = Sizes(student_spatial=(2, 2))
        odd["maps of other shapes"] = Sizes(student_spatial=(3, 5))
    for what, sizes in odd.items():
        step = case.step(sizes)
        try:
            objective = case.make(step)
            outcome = run(objective, step)
        except (ValueError, TransfuseError) as refusal:
            if len(str(refusal)) < 20:
                raise ObjectiveDefect("small", f"{what}: refused, but the reason is only '{refusal}'") from refusal
            continue
        except Exception as error:
            raise ObjectiveDefect("small", f"{what}: {type(error).__name__}: {error}; compute it or say in a ValueError why not") from error
        problem = not_finite(outcome)
        if not problem and what == "two classes" and _teaches_nothing(outcome):
            problem = "there is no gradient; refuse it and say why"
        problem = problem or _differs_from_reference(case, objective, step, outcome)
        if problem:
            raise ObjectiveDefect("small", f"{what}: {problem}")


def _differs_from_reference(case: Case, objective: nn.Module, step: Step, outcome: Outcome) -> str | None:
    try:
        expected = case.expected(objective, step)
    except (ValueError, IndexError) as error:  # what numpy and zip say where a reference takes equal sizes for granted
        return f"the objective computes it and the reference does not ({error}); write the resizing into the reference, or refuse"
    return differs(outcome.values, expected, case.particulars.tolerance)


def _teaches_nothing(outcome: Outcome) -> bool:
    reached = [gradient for gradient in outcome.gradients.values() if gradient is not None]
    return all(bool((gradient.abs() < 1e-9).all()) for gradient in reached)


def check_unlabelled(case: Case) -> None:
    """Samples without a label leave value and gradient finite, and the other samples' values as they were.

    An objective at batch level that needs labels is only ever shown labelled samples by the engine, and so it is here.
    """
    step = case.step()
    objective = case.make(step)
    before = run(objective, step).values
    rows = slice(0, len(step.batch) // 2)
    partly, none = unlabelled(step, rows), unlabelled(step, slice(None))
    needs_labels = bool({"labels", "hard_labels"} & set(case.card.needs))
    steps: list[Step] = [partly, none]
    if case.card.level == "batch" and needs_labels:
        steps = [partly.select(partly.batch.labelled)]
    for shown in steps:
        outcome = run(objective, shown)
        problem = not_finite(outcome)
        if problem:
            raise ObjectiveDefect("unlabelled", f"some samples have no label: {problem}")
    if case.card.level == "sample":
        problem = differs(run(objective, partly).values[rows.stop :], before[rows.stop :], 1e-12)
        if problem:
            raise ObjectiveDefect("unlabelled", f"samples without a label change the others' values: {problem}")


def check_float32(case: Case) -> None:
    """float32, in which training runs, gives what float64 gives."""
    step = case.step()
    objective = case.make(step)
    single = run(objective.float(), cast(step, torch.float32))
    problem = differs(single.values, run(case.make(step), step).values, 1e-4)
    if problem:
        raise ObjectiveDefect("float32", f"differs from float64: {problem}")
