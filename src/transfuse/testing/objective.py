"""check_objective: the proof that an objective computes its formula and can be trained with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from transfuse.core.card import Card
from transfuse.core.types import Step
from transfuse.testing import formula_checks, robustness_checks, use_checks
from transfuse.testing.case import Case, ObjectiveDefect, Particulars
from transfuse.testing.steps import Sizes, example_step

CHECKS: dict[str, Callable[[Case], None]] = {
    "card": use_checks.check_card,
    "schema": use_checks.check_schema,
    "value": formula_checks.check_value,
    "equality": formula_checks.check_equality,
    "invariance": formula_checks.check_invariance,
    "halves": formula_checks.check_halves,
    "function": formula_checks.check_function,
    "needs": formula_checks.check_needs,
    "gradient_flow": formula_checks.check_gradient_flow,
    "gradient": formula_checks.check_gradient,
    "saved": formula_checks.check_saved,
    "float32": robustness_checks.check_float32,
    "precision": robustness_checks.check_precision,
    "extreme": robustness_checks.check_extreme,
    "constant": robustness_checks.check_constant,
    "small": robustness_checks.check_small,
    "unlabelled": robustness_checks.check_unlabelled,
    "compiled": use_checks.check_compiled,
    "two_processes": use_checks.check_two_processes,
    "gpu": use_checks.check_gpu,
    "inductor": use_checks.check_inductor,
}
QUICK = tuple(name for name in CHECKS if name not in ("compiled", "two_processes", "inductor"))
DEFAULT = (*QUICK, "compiled", "two_processes")


def check_objective(
    objective_class: type[nn.Module],
    reference: Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    make_step: Callable[[Sizes], Step] | None = None,
    zero_at_equality: bool = False,
    invariance: Mapping[str, Callable[[Step], Step]] | None = None,
    checks: Collection[str] | None = None,
    particulars: Particulars | None = None,
) -> None:
    """Proves an objective; see `transfuse.testing` for an example and for what a reference is.

    Args:
        objective_class: the class; its module holds the CARD and the `<name>_loss` function.
        reference: slow, independent float64 loop, written from the paper.
        arguments: of the constructor.
        make_step: sizes -> float64 step; default: an `example_step` by the card's needs and first task.
        zero_at_equality: whether the value is 0 where student and teacher agree.
        invariance: fact -> transformation of a step that must not change the value.
        checks: names from CHECKS; default: all but inductor. QUICK leaves out compilation and processes too.
        particulars: what is unusual about this objective.

    Raises:
        ObjectiveDefect: the first check that failed, and how.
        ValueError: an unknown check.
    """
    particulars = particulars or Particulars()
    chosen = DEFAULT if checks is None else tuple(checks)
    unknown = sorted({*chosen, *particulars.skip} - set(CHECKS))
    if unknown:
        raise ValueError(f"unknown checks {unknown}; known: {', '.join(CHECKS)}")
    card = particulars.card or _card_of(objective_class)
    case = Case(
        objective_class,
        reference,
        dict(arguments or {}),
        make_step or partial(_step_by_card, card),
        card,
        zero_at_equality,
        invariance or {},
        particulars,
    )
    for name in chosen:
        if name not in particulars.skip:
            CHECKS[name](case)


def _card_of(objective_class: type[nn.Module]) -> Card:
    module = __import__(objective_class.__module__, fromlist=["CARD"])
    card = getattr(module, "CARD", None)
    if not isinstance(card, Card):
        raise ObjectiveDefect("card", f"{objective_class.__module__} has no CARD")
    return card


def _step_by_card(card: Card, sizes: Sizes) -> Step:
    return example_step(
        sizes,
        task=card.tasks[0],
        teachers=int(card.asks_teachers),
        taps=int("teacher.features" in card.needs),
        two_views="two_views" in card.needs,
        peers=int("peers" in card.needs),
        rotations="rotations" in card.needs,
    )
