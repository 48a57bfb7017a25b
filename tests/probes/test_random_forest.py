"""The forest as a module against the forest that it was made of."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from transfuse.probes.random_forest import RandomForest


def test_shares_are_those_of_scikit_learn(digits, rows):
    problem, features, _ = digits
    theirs = RandomForestClassifier(12, min_samples_leaf=2, random_state=0).fit(problem.features, problem.labels)
    ours = rows(RandomForest(12).fit(problem, {"least_in_leaf": 2}), features)
    assert np.exp(ours) == pytest.approx((12 * theirs.predict_proba(features) + 0.25) / 13, abs=1e-6)


@pytest.mark.parametrize("columns", [1, 2])
def test_targets_are_those_of_scikit_learn(diabetes, rows, columns):
    problem, features, _ = diabetes
    part = problem.select(np.arange(300))
    part.labels, part.outputs = problem.labels[:, :columns], columns
    labels = part.labels[:, 0] if columns == 1 else part.labels
    theirs = RandomForestRegressor(8, min_samples_leaf=3, random_state=0).fit(part.features, labels).predict(features)
    assert rows(RandomForest(8).fit(part, {"least_in_leaf": 3}), features) == pytest.approx(theirs.reshape(len(features), -1), abs=1e-5)


def test_a_class_without_samples_has_a_column(digits, rows):
    problem, features, _ = digits
    without = problem.select(np.flatnonzero(problem.labels != 1))
    found = rows(RandomForest(5).fit(without, {"least_in_leaf": 1}), features)
    assert found.shape[1] == 4
    assert (found.argmax(1) != 1).all()
