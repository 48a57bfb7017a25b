"""Chooses a head's settings by stratified k-fold cross-validation on the training rows, and fits it to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from transfuse.probes.assembly import fitted_factor, outputs_of, sharpened
from transfuse.probes.preparation import Preparation, fit_preparation
from transfuse.probes.problem import Head, HeadCard, Problem, settings

Score = Callable[[np.ndarray, np.ndarray], float]
"""(outputs, labels) -> a metric."""


@dataclass(frozen=True)
class Plan:
    """How a head is fitted.

    Attributes:
        head: with its settings.
        card: its card.
        standardise, components: see `preparation.fit_preparation`.
        score: what held-out rows are judged by.
        higher_is_better: of the score.
    """

    head: Head
    card: HeadCard
    standardise: bool
    components: int | float | None
    score: Score
    higher_is_better: bool


@dataclass(frozen=True)
class Folds:
    """Which rows are held out together, and which of them a head is judged on.

    Attributes:
        fold: int64 [rows]; rows of one sample share theirs.
        judged: bool [rows].
    """

    fold: np.ndarray
    judged: np.ndarray


@dataclass
class Candidate:
    """One combination of settings, and what it reached on each held-out fold."""

    setting: dict[str, Any]
    scores: list[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if self.scores else float("nan")


@dataclass
class Fitted:
    """A head that was chosen and fitted to all rows.

    Attributes:
        preparation, head: the parts that `assembly.ending` puts together.
        setting: the chosen one.
        candidates: all, in the order of the grid; without scores where there was nothing to choose.
        out_of_fold: float64 [rows, outputs], what the chosen setting said about each judged row when it was held out, NaN about the
            others; None without folds.
        factor: by which margins were multiplied; None where outputs are no margins.
    """

    preparation: Preparation
    head: nn.Module
    setting: dict[str, Any]
    candidates: list[Candidate] = field(default_factory=list)
    out_of_fold: np.ndarray | None = None
    factor: float | None = None


def choose(
    plan: Plan,
    problem: Problem,
    folds: Folds | None,
    known: Mapping[str, list[float]] | None = None,
    keep: Callable[[list[Candidate]], None] | None = None,
) -> Fitted:
    """Chooses settings by the mean score over folds and fits the head to all rows.

    Preparation is fitted anew inside every fold, on the rows that are learnt from. Of equal candidates the more restrained one is taken.

    Args:
        plan: the head and how it is judged.
        problem: features as they come from the network, and labels.
        folds: which rows are held out together; None: nothing is held out, and nothing can be chosen.
        known: scores of an earlier, interrupted choice, by the text of the setting.
        keep: told about the candidates after each fold.
    """
    grid = settings(plan.head)
    candidates = [Candidate(setting, []) for setting in grid]
    if folds is not None:
        earlier = known or {}
        complete = [earlier.get(str(setting), []) for setting in grid]
        done = min(len(scores) for scores in complete)
        for candidate, scores in zip(candidates, complete, strict=True):
            candidate.scores = list(scores[:done])
        for held, learnt, prepared in _prepared(plan, problem, folds, done):
            for candidate in candidates:
                head = plan.head.fit(learnt, candidate.setting)
                candidate.scores.append(plan.score(outputs_of(head, prepared), problem.labels[held]))
            if keep is not None:
                keep(candidates)
    chosen = _best(candidates, plan.higher_is_better)
    fitted = _refit(plan, problem, chosen)
    fitted.candidates = candidates
    if folds is not None:
        fitted.out_of_fold = out_of_fold(plan, problem, folds, chosen)
        _scale(plan, problem, fitted)
    return fitted


def out_of_fold(plan: Plan, problem: Problem, folds: Folds, setting: Mapping[str, Any]) -> np.ndarray:
    """float64 [rows, outputs]: what the head says about each judged row when it is held out; NaN about the others."""
    found = np.full((len(folds.fold), problem.outputs), np.nan)
    for held, learnt, prepared in _prepared(plan, problem, folds, 0):
        found[held] = outputs_of(plan.head.fit(learnt, setting), prepared)
    return found


def _prepared(plan: Plan, problem: Problem, folds: Folds, first: int) -> Iterator[tuple[np.ndarray, Problem, np.ndarray]]:
    """Per fold: which rows are judged, the prepared rows that are learnt from, the prepared features of those that are judged."""
    for fold in np.unique(folds.fold)[first:]:
        held = folds.fold == fold
        learnt = problem.select(np.flatnonzero(~held))
        preparation = fit_preparation(learnt.features, plan.standardise, plan.components, problem.seed)
        learnt.features = preparation(learnt.features)
        judged = held & folds.judged
        yield judged, learnt, preparation(problem.features[judged])


def _best(candidates: list[Candidate], higher: bool) -> dict[str, Any]:
    if not candidates[0].scores:
        return candidates[0].setting
    sign = 1 if higher else -1
    values = [sign * candidate.mean if np.isfinite(candidate.mean) else -np.inf for candidate in candidates]
    return candidates[int(np.argmax(values))].setting  # the first of equals is the more restrained one


def _refit(plan: Plan, problem: Problem, setting: dict[str, Any]) -> Fitted:
    preparation = fit_preparation(problem.features, plan.standardise, plan.components, problem.seed)
    prepared = Problem(preparation(problem.features), problem.labels, problem.task, problem.outputs, problem.seed)
    return Fitted(preparation, plan.head.fit(prepared, setting), setting)


def _scale(plan: Plan, problem: Problem, fitted: Fitted) -> None:
    """Makes probabilities of margins; the decisions stay as they are."""
    if not plan.card.margins or problem.task == "regression" or fitted.out_of_fold is None:
        return
    judged = ~np.isnan(fitted.out_of_fold[:, 0])
    fitted.factor = fitted_factor(fitted.out_of_fold[judged], problem.labels[judged], problem.task == "multilabel")
    fitted.head = sharpened(fitted.head, fitted.factor)
    fitted.out_of_fold *= fitted.factor
