"""The Gaussian kernel machine against scikit-learn's machines, one for each class or target."""

import numpy as np
import pytest
from sklearn.svm import SVC, SVR

from transfuse.probes.rbf_svm import RbfSVM


def test_each_class_has_the_margin_of_a_machine_against_all_others(digits, rows):
    problem, features, labels = digits
    ours = rows(RbfSVM().fit(problem, {"penalty": 0.5, "gamma": 1.0}), features)
    for number in range(4):
        theirs = SVC(C=2.0, gamma="scale").fit(problem.features.astype(np.float64), problem.labels == number)
        assert ours[:, number] == pytest.approx(theirs.decision_function(features.astype(np.float64)), abs=1e-4)
    assert (ours.argmax(1) == labels).mean() > 0.95


def test_targets_are_those_of_support_vector_regression(diabetes, rows):
    problem, features, _ = diabetes
    ours = rows(RbfSVM().fit(problem, {"penalty": 1.0, "gamma": 1.0}), features)
    for column in range(2):
        theirs = SVR(C=1.0, gamma="scale").fit(problem.features.astype(np.float64), problem.labels[:, column])
        assert ours[:, column] == pytest.approx(theirs.predict(features.astype(np.float64)), abs=1e-4)


def test_a_class_without_samples_is_never_nearest(digits, rows):
    problem, features, _ = digits
    without = problem.select(np.flatnonzero(problem.labels != 2))
    assert (rows(RbfSVM().fit(without, {"penalty": 1.0, "gamma": 1.0}), features).argmax(1) != 2).all()
