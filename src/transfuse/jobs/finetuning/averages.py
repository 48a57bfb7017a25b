"""Averages over one run's weights, chosen on validation: WiSE-FT between start and end, a greedy soup of the best checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from transfuse.core.types import DataSet, Model
from transfuse.engine.loop import Outcome
from transfuse.evaluate import metrics
from transfuse.fusion.repair import reset_statistics
from transfuse.fusion.weights.greedy_soup import greedy_choice
from transfuse.fusion.weights.mean import mean
from transfuse.fusion.weights.weighted import weighted
from transfuse.jobs.context import Context
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.train.probing import trial
from transfuse.jobs.train.training import validator
from transfuse.recipe.finetune import AverageBlock, FinetuneRecipe

SHOWN = 2048  # training samples on which BatchNorm's statistics are re-estimated

State = Mapping[str, Tensor]


class Judge:
    """Validation figures of state dicts, with BatchNorm's statistics re-estimated on training samples.

    An average of networks has statistics of its own: those of its parts, averaged, belong to none of them. Both papers' code leaves that
    out, which does no harm to networks without BatchNorm alone.

    Args:
        context: the job.
        recipe: for the metric and the seed.
        model: the network, on whose copy states are tried.
        data: for validation and for the samples.
    """

    def __init__(self, context: Context, recipe: FinetuneRecipe, model: Model, data: DataSet):
        self._network = copy.deepcopy(model.network).to(context.device)
        metric = recipe.train.stop.metric or metrics.primary(data.task)[0]
        self.metric, self.sign = metric, 1 if metrics.higher_is_better(data.task, metric) else -1
        self._validate = validator(model, data, context.device, metric, "averages")
        looking = trial(
            context, data, standardised(data.train, data), Model(self._network, model.source, preprocess=model.preprocess), recipe.seed
        )
        self._batches = looking.batches

    def re_estimated(self, state: State) -> nn.Module:
        """The network in this state, with statistics of its own."""
        self._network.load_state_dict(dict(state))
        reset_statistics(self._network, self._inputs())
        return self._network

    def score(self, state: State, as_it_is: bool = False) -> float:
        """Greater is better, whatever the metric."""
        if as_it_is:
            self._network.load_state_dict(dict(state))
        else:
            self.re_estimated(state)
        return self.sign * self._validate(self._network)[self.metric]

    def _inputs(self) -> Iterator[Tensor]:
        for inputs, _ in self._batches(SHOWN):
            yield inputs


def settle(context: Context, recipe: FinetuneRecipe, model: Model, data: DataSet, outcome: Outcome, start: State) -> dict[str, Any] | None:
    """Puts the chosen average into the model, and says what was chosen; None where the recipe asks for none.

    Args:
        context: the job.
        recipe: resolved.
        model: trained, a plain network.
        data: validation chooses; the test part is not looked at.
        outcome: with the checkpoints of a soup.
        start: the network when its last phase began, or as it was pretrained.
    """
    if recipe.average is None:
        return None
    judge = Judge(context, recipe, model, data)
    end = {name: value.detach().cpu().clone() for name, value in model.network.state_dict().items()}
    if recipe.average.how == "wise_ft":
        state, about = _between(judge, recipe.average, start, end)
    else:
        state, about = _soup(judge, outcome, end)
    if state is not None:
        found = judge.re_estimated(state).state_dict()
        model.network.load_state_dict({name: value.cpu() for name, value in found.items()})
        model.network.eval()
    context.say(f"average: {about['said']}")
    return {"how": recipe.average.how, "metric": judge.metric, **about}


def _between(judge: Judge, block: AverageBlock, start: State, end: State) -> tuple[State | None, dict[str, Any]]:
    """(1 - alpha) start + alpha end for even steps of alpha (Wortsman et al., 2022, CVPR); of equals the one nearest the end."""
    scores: dict[float, float] = {}
    for number in range(block.points - 1, -1, -1):
        alpha = number / (block.points - 1)
        plain = {1.0: end, 0.0: start}.get(alpha)
        scores[alpha] = judge.score(weighted([start, end], [1 - alpha, alpha]) if plain is None else plain, as_it_is=plain is not None)
    chosen = max(scores, key=lambda alpha: scores[alpha])
    figures = {f"{alpha:g}": judge.sign * value for alpha, value in sorted(scores.items())}
    said = f"wise_ft takes alpha {chosen:g} of {block.points} between start (0) and end (1): {judge.metric} on validation "
    said += f"{figures[f'{chosen:g}']:.4g}, at the end {figures['1']:.4g}"
    about = {"alpha": chosen, "validation": figures, "said": said}
    if chosen == 1:
        return None, about
    return (weighted([start, end], [1 - chosen, chosen]) if chosen else start), about


def _soup(judge: Judge, outcome: Outcome, end: State) -> tuple[State | None, dict[str, Any]]:
    """Recipe 1 of Wortsman et al. (2022, ICML), with checkpoints of one run as ingredients."""
    found = outcome.snapshots
    states: list[State] = [{name: value.cpu() for name, value in one["weights"].items()} for one in found] or [end]
    alone = [judge.score(state, as_it_is=True) for state in states]
    kept, best = greedy_choice(states, judge.score, alone)
    steps = [one["step"] for one in found]
    chosen = [steps[number] for number in kept] if steps else []
    said = f"greedy_soup takes {len(kept)} of {len(states)} checkpoints (steps {', '.join(map(str, sorted(chosen)))}): {judge.metric} on "
    said += f"validation {judge.sign * best:.4g}, the best alone {judge.sign * max(alone):.4g}"
    about = {"steps": steps, "kept": chosen, "validation": judge.sign * best, "alone": [judge.sign * one for one in alone], "said": said}
    return (mean([states[number] for number in kept]) if len(kept) > 1 else None), about
