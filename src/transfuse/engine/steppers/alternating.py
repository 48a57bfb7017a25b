"""Several updates per step, with other terms and other weights each: what a student and a second head need that play against each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from transfuse.core.types import Batch, Signals, Step, Term, Turn, WeightedObjective
from transfuse.engine.steppers.supervised import Supervised
from transfuse.errors import RecipeError


class Alternating(Supervised):
    """The step of an objective with turns (`core.types.Turn`): one phase for each.

    Label terms are asked of the objective's second head as well, under the name of the term with "_second". Whatever a phase doesn't
    train keeps its weights and its optimiser's state: its gradient is forgotten.
    """

    def phases(self) -> list[str]:
        return list(self._turns)

    @property
    def _leader(self) -> WeightedObjective:
        return next(weighted for weighted in self._weighted if has_turns(weighted))

    @property
    def _turns(self) -> dict[str, Turn]:
        objective: Any = self._leader.objective
        return objective.turns()

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        objective: Any = self._leader.objective
        trains = self._turns[phase].trains
        if trains == "all":
            return None
        head = list(self.network().get_submodule(objective.head_path).parameters())
        if trains == "heads":
            return [*head, *objective.parameters()]
        known = {id(parameter) for parameter in head}
        return [parameter for parameter in self.network().parameters() if id(parameter) not in known]

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        found = super().defined(batch)
        return found | {_second(weighted.name): found[weighted.name] for weighted in self._weighted if _is_label(weighted)}

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        turn, masks, leader = self._turns[phase], self.defined(batch), self._leader
        step = self._look(batch, self._weighted, progress)
        found = []
        if turn.others != "none":
            taking = [weighted for weighted in self._weighted if weighted is not leader and (turn.others == "all" or _is_label(weighted))]
            found = [self._term(weighted, step, masks[weighted.name]) for weighted in taking]
            seconds = self._as_second(step)
            for weighted in filter(_is_label, taking):
                term = self._term(weighted, seconds, masks[weighted.name])
                found.append(replace(term, name=_second(weighted.name)))
        if turn.sign:
            term = self._term(leader, step, masks[leader.name])
            found.append(replace(term, weight=turn.sign * term.weight))
        return found

    def _as_second(self, step: Step) -> Step:
        """The step with what the second head says in the place of what the student says."""
        objective: Any = self._leader.objective
        tapped = {path: step.student.features[path] for path in self._leader.student_taps}
        logits = objective.second_logits(replace(step, student=Signals(step.student.logits, tapped)))
        return replace(step, student=replace(step.student, logits=logits))


def stepper_for(objectives: Sequence[WeightedObjective]) -> type[Supervised]:
    """The stepper that these objectives need.

    Raises:
        RecipeError: two of them alternate, or one of them with an objective that takes two views.
    """
    leaders = [weighted.name for weighted in objectives if has_turns(weighted)]
    if not leaders:
        return Supervised
    if len(leaders) > 1:
        fix = "keep one of them"
        raise RecipeError(f"{' and '.join(leaders)} each want several updates per step of their own", where="objectives", fix=fix)
    doubled = [weighted.name for weighted in objectives if "two_views" in weighted.card.needs]
    if doubled:
        raise RecipeError(f"{doubled[0]} takes two views, which {leaders[0]} doesn't give it", where="objectives", fix="keep one of them")
    return Alternating


def has_turns(weighted: WeightedObjective) -> bool:
    """Whether an objective wants several updates per step."""
    return hasattr(weighted.objective, "turns")


def _is_label(weighted: WeightedObjective) -> bool:
    return not weighted.card.transfers and bool({"labels", "hard_labels"} & set(weighted.card.needs)) and not has_turns(weighted)


def _second(name: str) -> str:
    return f"{name}_second"
