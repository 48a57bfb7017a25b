"""The linear support vector machine against scikit-learn's decision function."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from transfuse.probes.linear_svm import LinearSVM


def test_margins_are_those_of_liblinear(digits, rows):
    problem, features, _ = digits
    theirs = LinearSVC(C=0.1, dual="auto", max_iter=2000, random_state=0).fit(problem.features.astype(np.float64), problem.labels)
    ours = rows(LinearSVM().fit(problem, {"penalty": 10.0}), features)
    assert ours == pytest.approx(theirs.decision_function(features.astype(np.float64)), abs=1e-4)


def test_two_classes_keep_their_margin(digits, rows):
    problem, features, _ = digits
    pair = problem.select(np.flatnonzero(problem.labels < 2))
    pair.outputs = 2
    theirs = LinearSVC(C=1.0, dual="auto", max_iter=2000, random_state=0).fit(pair.features.astype(np.float64), pair.labels)
    ours = rows(LinearSVM().fit(pair, {"penalty": 1.0}), features)
    assert ours[:, 1] - ours[:, 0] == pytest.approx(theirs.decision_function(features.astype(np.float64)), abs=1e-4)
