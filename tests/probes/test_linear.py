"""The torch layer has the solution of the same problem in other hands: scikit-learn's logistic regression, the normal equations."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from transfuse.probes.linear import Linear


def test_for_classes_it_is_logistic_regression(digits, rows):
    problem, features, _ = digits
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(problem.features.astype(np.float64), problem.labels)
    ours = softmax(rows(Linear().fit(problem, {"penalty": 1.0}), features), axis=1)
    assert ours == pytest.approx(theirs.predict_proba(features.astype(np.float64)), abs=1e-4)


def test_for_targets_it_is_ridge_regression(diabetes, rows):
    problem, features, _ = diabetes
    centre, mean = problem.features.mean(0, dtype=np.float64), problem.labels.mean(0, dtype=np.float64)
    inputs = problem.features - centre
    weight = np.linalg.solve(inputs.T @ inputs + 3.0 * np.eye(inputs.shape[1]), inputs.T @ (problem.labels - mean))
    assert rows(Linear().fit(problem, {"penalty": 3.0}), features) == pytest.approx((features - centre) @ weight + mean, abs=1e-4)


def test_several_labels_each_have_their_own_loss(several, rows):
    problem, features, labels = several
    found = rows(Linear().fit(problem, {"penalty": 0.1}), features)
    assert ((found > 0) == (labels > 0.5)).mean(0).min() > 0.85
