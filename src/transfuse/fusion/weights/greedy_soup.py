"""Greedy soup: fine-tuned networks are added to a mean one after the other, each if validation gets no worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from transfuse.fusion.states import State
from transfuse.fusion.types import Calibration, MergeCard, Merged, Parent, Repair
from transfuse.fusion.weights._assembly import Opening, finished, opened
from transfuse.fusion.weights.mean import mean

CARD = MergeCard(
    title="Greedy soup",
    paper="Wortsman et al., 2022, ICML",
    link="https://arxiv.org/abs/2203.05482",
    needs=("same_shapes", "shared_origin", "inputs", "evaluate"),
    cost="two evaluations on validation data per source",
)


def greedy_soup(
    states: Sequence[State],
    evaluate: Callable[[State], float],
    scores: Sequence[float] | None = None,
    base: State | None = None,
) -> dict[str, Tensor]:
    """w = mean of the sources that `greedy_choice` keeps; `base` is not looked at.

    Raises:
        ModelError: names or shapes differ.
    """
    kept, _ = greedy_choice(states, evaluate, scores)
    return mean([states[number] for number in kept])


def greedy_choice(
    states: Sequence[State], evaluate: Callable[[State], float], scores: Sequence[float] | None = None
) -> tuple[list[int], float]:
    """Recipe 1 of the paper: sources in falling order of their validation figure; each is kept if the mean of all kept is at least as good.

    Args:
        states: of networks trained from the same weights.
        evaluate: a state dict -> its figure on validation, higher is better.
        scores: of each source alone, where known.

    Returns:
        The positions of those kept, in the order in which they were added, and their mean's figure on validation.
    """
    known = [evaluate(state) for state in states] if scores is None else list(scores)
    return added_greedily(known, lambda kept: evaluate(mean([states[number] for number in kept])))


def added_greedily(scores: Sequence[float], evaluate: Callable[[list[int]], float]) -> tuple[list[int], float]:
    """`greedy_choice` on positions, for who has to know which sources a candidate is made of.

    Args:
        scores: of each source alone.
        evaluate: positions -> the figure on validation of what these sources become together.
    """
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    kept, best = order[:1], scores[order[0]]
    for number in order[1:]:
        score = evaluate([*kept, number])
        if score >= best:
            kept, best = [*kept, number], score
    return kept, best


class GreedySoup:
    """The mean of those sources that don't make each other worse.

    A candidate is evaluated as it would be shipped: repaired, towards the sources that it is made of. A source alone is shipped as it is,
    and is evaluated like that unless its figure is given.

    Args:
        repair: auto re-estimates BatchNorm's statistics; units also rescales the layers without; none leaves the averaged ones.
        check_origin: refuse networks that were not trained from the same weights.
    """

    def __init__(self, repair: Repair = "auto", check_origin: bool = True):
        self.repair: Repair = repair
        self.check_origin = check_origin

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        opening = opened(CARD, sources, calibration, base, self.check_origin)
        judge = opening.data.evaluate
        assert judge is not None
        scores = [judge(source.module) if source.score is None else source.score for source in sources]
        kept, score = added_greedily(scores, lambda positions: judge(self._made(opening, positions).module))
        names = [sources[number].name for number in kept]
        figures = {"kept": names, "validation": score, "alone": dict(zip([one.name for one in sources], scores, strict=True))}
        if len(kept) == 1:  # the best source as it is: nothing was merged, so nothing has to be put right
            opening.notes.append(f"no other source makes '{names[0]}' better on validation, so it is kept alone")
            return finished(opening, opening.states[kept[0]], "none", figures=figures)
        opening.notes.append(f"kept {len(kept)} of {len(sources)}: {', '.join(names)}")
        return self._made(opening, kept, figures)

    def _made(self, opening: Opening, kept: Sequence[int], figures: dict[str, Any] | None = None) -> Merged:
        """The soup of some of the sources."""
        state = mean([opening.states[number] for number in kept])
        # named where units are asked for alone: auto repairs the units of sources that are named, and these need no aligning
        own = [opening.sources[number].module for number in kept] if self.repair == "units" else None
        return finished(opening, state, self.repair, own, figures=figures)
