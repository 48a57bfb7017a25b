"""Nearest neighbours against scikit-learn."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from transfuse.probes.knn import KNN


def test_votes_are_those_of_scikit_learn(digits, rows):
    problem, features, _ = digits
    shares = KNeighborsClassifier(7).fit(problem.features, problem.labels).predict_proba(features)
    ours = rows(KNN().fit(problem, {"neighbours": 7}), features)
    assert softmax(ours, axis=1) == pytest.approx((7 * shares + 0.25) / 8, abs=1e-6)
    assert np.exp(ours).sum(1) == pytest.approx(1)


def test_targets_are_averaged(diabetes, rows):
    problem, features, _ = diabetes
    theirs = KNeighborsRegressor(5).fit(problem.features, problem.labels).predict(features)
    assert rows(KNN().fit(problem, {"neighbours": 5}), features) == pytest.approx(theirs, abs=1e-5)


def test_more_neighbours_than_samples_means_all(diabetes, rows):
    problem, features, _ = diabetes
    few = problem.select(np.arange(4))
    assert rows(KNN().fit(few, {"neighbours": 50}), features) == pytest.approx(np.tile(few.labels.mean(0), (len(features), 1)), abs=1e-5)


def test_several_labels_are_decided_by_more_than_half(several, rows):
    problem, features, _ = several
    shares = KNeighborsRegressor(5).fit(problem.features, problem.labels).predict(features)
    assert ((rows(KNN().fit(problem, {"neighbours": 5}), features) > 0) == (shares > 0.5)).all()
