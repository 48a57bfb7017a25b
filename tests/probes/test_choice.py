"""Choosing settings on folds: the scores of scikit-learn's cross-validation, and nothing learnt from what is held out."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transfuse import probes
from transfuse.data.splits import folds
from transfuse.errors import RecipeError
from transfuse.probes.choice import Folds, Plan, choose
from transfuse.probes.problem import settings

HERE = Path(__file__).parent


def accuracy(outputs, labels):
    return float((outputs.argmax(1) == labels).mean())


def plan(name, **chosen):
    return Plan(probes.get(name)(**chosen), probes.card(name), True, None, accuracy, True)


def dealt(problem, count=4):
    fold = folds(problem.labels, count, 0, "test")
    return Folds(fold, np.ones(len(fold), bool))


def test_every_head_has_a_card_a_test_and_a_grid():
    for name in probes.names():
        assert (HERE / f"test_{name}.py").exists(), name
        card, grid = probes.card(name), settings(probes.get(name)())
        assert card.title
        assert card.link.startswith("https://")
        assert len(grid) > 1
    assert set(probes.TABLE) == set(probes.names())
    with pytest.raises(RecipeError, match="did you mean 'logistic'"):
        probes.get("logstic")


def test_scores_are_those_of_cross_validation_with_the_preparation_inside(digits):
    problem, _, _ = digits
    held = dealt(problem)
    found = choose(plan("ridge", penalty=[1000.0, 30.0, 1.0]), problem, held)
    for candidate in found.candidates:
        pipeline = make_pipeline(StandardScaler(), RidgeClassifier(alpha=candidate.setting["penalty"]))
        theirs = cross_val_score(pipeline, problem.features.astype(np.float64), problem.labels, cv=PredefinedSplit(held.fold))
        assert candidate.scores == pytest.approx(theirs)
    best = max(found.candidates, key=lambda candidate: candidate.mean)
    assert found.setting == best.setting


def test_of_equal_candidates_the_more_restrained_one_is_taken(digits):
    problem, _, _ = digits
    chosen = Plan(probes.get("ridge")(penalty=[50.0, 5.0, 0.5]), probes.card("ridge"), True, None, lambda outputs, labels: 1.0, True)
    assert choose(chosen, problem, dealt(problem)).setting == {"penalty": 50.0}


def test_a_score_that_is_lower_when_better_is_minimised(diabetes):
    problem, _, _ = diabetes

    def error(outputs, labels):
        return float(np.square(outputs - labels).mean())

    lower = Plan(probes.get("ridge")(penalty=[1e6, 10.0]), probes.card("ridge"), True, None, error, False)
    fold = np.arange(300) % 5
    assert choose(lower, problem, Folds(fold, np.ones(300, bool))).setting == {"penalty": 10.0}


def test_what_is_held_out_is_not_learnt_from(digits):
    problem, _, _ = digits
    held = dealt(problem)
    one = choose(plan("ridge", penalty=5.0), problem, held)
    changed = problem.select(np.arange(len(problem.labels)))
    changed.labels = np.where(held.fold == 2, (problem.labels + 1) % 4, problem.labels)
    two = choose(plan("ridge", penalty=5.0), changed, held)
    out = held.fold == 2
    ratio = one.out_of_fold[out] / two.out_of_fold[out]  # margins are scaled by one factor each
    assert ratio == pytest.approx(ratio.flat[0])
    assert (one.out_of_fold[~out] / two.out_of_fold[~out]).std() > 1e-3


def test_views_of_a_sample_are_held_out_with_it_and_only_plain_rows_are_judged(digits):
    problem, _, _ = digits
    count = len(problem.labels)
    doubled = problem.select(np.tile(np.arange(count), 2))
    doubled.features = np.concatenate([problem.features, np.zeros_like(problem.features)])
    fold = dealt(problem).fold
    judged = np.arange(2 * count) < count
    shown = []

    def watched(outputs, labels):
        shown.append(len(labels))
        return accuracy(outputs, labels)

    watching = Plan(probes.get("knn")(neighbours=1), probes.card("knn"), False, None, watched, True)
    found = choose(watching, doubled, Folds(np.tile(fold, 2), judged))
    assert sum(shown) == count
    assert np.isnan(found.out_of_fold[~judged]).all()
    nearest = found.candidates[0].mean
    assert nearest < 1, "a sample's own views would be its nearest neighbours"


def test_an_interrupted_choice_goes_on_where_it_was(digits):
    problem, _, _ = digits
    held, kept, fitted = dealt(problem), [], []
    chosen = plan("ridge", penalty=[100.0, 1.0])
    whole = choose(chosen, problem, held, None, lambda candidates: kept.append({str(one.setting): list(one.scores) for one in candidates}))

    class Counting(type(chosen.head)):
        def fit(self, problem, setting):
            fitted.append(setting)
            return super().fit(problem, setting)

    again = Plan(Counting([100.0, 1.0]), chosen.card, True, None, accuracy, True)
    resumed = choose(again, problem, held, kept[1])
    assert [one.scores for one in resumed.candidates] == [one.scores for one in whole.candidates]
    assert len(fitted) == 2 * 2 + 1 + 4, "two folds of two candidates, the fit to all rows, the chosen one's out-of-fold answers"


def test_a_single_candidate_needs_no_folds(digits):
    problem, _, _ = digits
    found = choose(plan("logistic", penalty=1.0), problem, None)
    assert found.out_of_fold is None
    assert found.candidates[0].scores == []
