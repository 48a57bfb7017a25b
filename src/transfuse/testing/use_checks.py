"""Checks of how an objective is used: in a recipe, compiled, by several processes."""

from __future__ import annotations

import contextlib
import copy
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import fields

import jaxtyping
import torch
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import Tensor, nn

from transfuse import objectives
from transfuse.core.card import Card
from transfuse.core.signature import parameters
from transfuse.core.types import Step
from transfuse.engine.precision import has_cpp_compiler
from transfuse.recipe.methods import objective_block
from transfuse.testing.case import Case, ObjectiveDefect, Outcome, differs, gradients_differ, run
from transfuse.testing.processes import ProcessFailure, processes
from transfuse.testing.steps import map_tensors


def check_card(case: Case) -> None:
    """The CARD says what the method is, where it comes from and what it costs."""
    card = case.card
    for field in fields(Card):
        value = getattr(card, field.name)
        if field.name != "needs" and not isinstance(value, bool) and not value:
            raise ObjectiveDefect("card", f"'{field.name}' is empty")
    if not card.link.startswith("https://"):
        raise ObjectiveDefect("card", f"link '{card.link}' is not an https address")
    if not case.objective_class.__doc__:
        raise ObjectiveDefect("card", "the class has no docstring")


def check_schema(case: Case) -> None:
    """The constructor can be a recipe block: at most 8 plainly typed, described parameters whose defaults are valid."""
    try:
        found = parameters(case.objective_class)
    except TypeError as error:
        raise ObjectiveDefect("schema", str(error)) from error
    if len(found) > 8:
        raise ObjectiveDefect("schema", f"the constructor has {len(found)} parameters; 8 are the most")
    for parameter in found:
        if not parameter.description:
            raise ObjectiveDefect("schema", f"parameter '{parameter.name}' is not described under Args")
        try:
            adapter: TypeAdapter[object] = TypeAdapter(parameter.annotation, config=ConfigDict(strict=True))
            adapter.json_schema()
            if not parameter.required:
                adapter.validate_python(parameter.default)
        except (PydanticSchemaGenerationError, ValidationError, TypeError) as error:
            raise ObjectiveDefect("schema", f"parameter '{parameter.name}': {error}") from error
    name = case.module.__name__.rpartition(".")[2]
    if name in objectives.names() and objectives.get(name) is case.objective_class:
        objective_block(name).model_json_schema()


@contextlib.contextmanager
def _without_runtime_types() -> Iterator[None]:
    # where tests switch on runtime shape checks, the compiler would have to trace through the checker as well
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


class _Compiled(nn.Module):
    def __init__(self, objective: nn.Module, backend: str, whole: bool):
        super().__init__()
        self.objective, self.backend, self.whole = objective, backend, whole

    def forward(self, step: Step) -> Tensor:
        return torch.compile(self.objective, backend=self.backend, fullgraph=self.whole)(step)


def _check_compiled(case: Case, check: str, backend: str) -> None:
    step = case.step(dtype=torch.float32)
    objective = case.make(step, torch.float32)
    expected = run(objective, step)
    torch._dynamo.reset()
    with _without_runtime_types(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, about its inner workings
        try:
            compiled = run(_Compiled(objective, backend, whole=not case.particulars.graph_breaks), step)
        except Exception as error:
            raise ObjectiveDefect(check, f"can't be compiled: {type(error).__name__}: {error}") from error
    torch._dynamo.reset()
    gradients = {path.replace("objective.objective.", "objective."): value for path, value in compiled.gradients.items()}
    compiled = Outcome(compiled.values, gradients, compiled.objective)
    problem = differs(compiled.values, expected.values, 1e-5) or gradients_differ(compiled, expected, 1e-4)
    if problem:
        raise ObjectiveDefect(check, f"compiled and eager differ: {problem}")


def check_compiled(case: Case) -> None:
    """torch.compile (aot_eager) gives the eager value and gradient, in one graph unless Particulars say why not."""
    _check_compiled(case, "compiled", "aot_eager")


def check_inductor(case: Case) -> None:
    """torch.compile (inductor) gives the eager value and gradient; needs a C++ compiler, and warns where there is none."""
    if has_cpp_compiler():
        _check_compiled(case, "inductor", "inductor")
    else:
        warnings.warn("inductor: there is no C++ compiler here, so generated code was not compared with eager", stacklevel=3)


def _one_rank(objective: nn.Module, step: Step, level: str) -> Outcome:
    outcome = run(objective, step)
    share = len(step.batch) if level == "sample" else 1  # a rank's loss is the mean over its samples
    scaled = {path: None if gradient is None else gradient / share for path, gradient in outcome.gradients.items()}
    return Outcome(outcome.values, scaled, nn.Module())


def check_two_processes(case: Case) -> None:
    """Half of the batch in each of two gloo processes gives the gradient of the whole in one.

    Each process differentiates the mean over its samples (or its scalar); data parallelism averages over processes. An objective at
    batch level has to gather the other processes' rows for that (`core.ranks.gather_rows`).
    """
    step = case.step()
    objective = case.make(step)
    whole = _one_rank(objective, step, case.card.level)
    rows = torch.arange(len(step.batch)).chunk(2)
    parts = [step, step] if case.card.level == "parameters" else [step.select(half) for half in rows]
    try:
        ranks = processes(2).call(_one_rank, [(objective, part, case.card.level) for part in parts])
    except pickle.PicklingError as error:
        raise ObjectiveDefect("two_processes", f"the class must be importable by name: {error}") from error
    except ProcessFailure as error:
        raise ObjectiveDefect("two_processes", str(error)) from error
    joined: dict[str, Tensor | None] = {}
    for path in whole.gradients:
        found = [outcome.gradients[path] for outcome in ranks]
        held = [gradient for gradient in found if gradient is not None]
        signals = not path.startswith(("objective.", "parameters."))  # own rows of the batch; all else every process holds
        joined[path] = None if not held else torch.cat(held) / 2 if signals else torch.stack(held).sum(0) / 2
    problem = gradients_differ(Outcome(whole.values, joined, nn.Module()), whole, 1e-8)
    if problem:
        raise ObjectiveDefect("two_processes", f"two processes and one differ: {problem}")


def check_gpu(case: Case) -> None:
    """A GPU gives the CPU's value and gradient, and the step doesn't wait for it; where there is no GPU, there is nothing to compare."""
    if not torch.cuda.is_available():
        return
    step = case.step()
    objective = case.make(step)
    expected = run(objective, step)
    there = map_tensors(step, lambda _, tensor: tensor.cuda())
    moved = copy.deepcopy(objective).cuda()
    try:
        found = run(moved, there)
    except RuntimeError as error:
        raise ObjectiveDefect("gpu", f"fails on a GPU: {error}") from error
    back = {path: None if gradient is None else gradient.cpu() for path, gradient in found.gradients.items()}
    found = Outcome(found.values.cpu(), back, nn.Module())
    problem = differs(found.values, expected.values, 1e-8) or gradients_differ(found, expected, 1e-8)
    if problem:
        raise ObjectiveDefect("gpu", f"a GPU and the CPU differ: {problem}")
    if case.particulars.graph_breaks or case.particulars.waits:
        return
    mode = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run(moved, there)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise ObjectiveDefect("gpu", "the step waits for the GPU: something in it looks at a value there") from error
    finally:
        torch.cuda.set_sync_debug_mode(mode)
