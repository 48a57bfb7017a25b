"""Ridge regression against the normal equations and scikit-learn's classifier."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from transfuse.probes.ridge import Ridge


def test_targets_are_those_of_the_normal_equations(diabetes, rows):
    problem, features, _ = diabetes
    centre, mean = problem.features.mean(0, dtype=np.float64), problem.labels.mean(0, dtype=np.float64)
    inputs = problem.features - centre
    weight = np.linalg.solve(inputs.T @ inputs + 5.0 * np.eye(inputs.shape[1]), inputs.T @ (problem.labels - mean))
    assert rows(Ridge().fit(problem, {"penalty": 5.0}), features) == pytest.approx((features - centre) @ weight + mean, abs=1e-5)


def test_one_target_has_one_column(diabetes, rows):
    problem, features, _ = diabetes
    single = problem.select(np.arange(300))
    single.labels, single.outputs = problem.labels[:, :1], 1
    both, one = (rows(Ridge().fit(given, {"penalty": 1.0}), features) for given in (problem, single))
    assert one == pytest.approx(both[:, :1], abs=1e-5)


def test_classes_are_decided_as_by_scikit_learn(digits, rows):
    problem, features, _ = digits
    theirs = RidgeClassifier(alpha=2.0).fit(problem.features.astype(np.float64), problem.labels)
    ours = rows(Ridge().fit(problem, {"penalty": 2.0}), features)
    assert ours == pytest.approx(theirs.decision_function(features.astype(np.float64)), abs=1e-5)


def test_several_labels_are_marks_of_their_own(several, rows):
    problem, features, labels = several
    assert ((rows(Ridge().fit(problem, {"penalty": 1.0}), features) > 0) == (labels > 0.5)).mean() > 0.85
