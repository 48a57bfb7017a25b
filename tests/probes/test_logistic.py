"""Logistic regression against the optimality conditions of its loss, and against scikit-learn."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from transfuse.probes.logistic import Logistic


def test_the_gradient_of_the_penalised_loss_is_zero(digits, rows):
    problem, _, _ = digits
    head = Logistic().fit(problem, {"penalty": 2.0})
    probabilities = softmax(rows(head, problem.features), axis=1)
    errors = probabilities - np.eye(4)[problem.labels]
    gradient = errors.T @ problem.features.astype(np.float64) + 2.0 * head.weight.numpy()
    assert np.abs(gradient).max() < 0.02
    assert np.abs(errors.sum(0)).max() < 0.02, "the bias is free"


def test_probabilities_are_those_of_scikit_learn(digits, rows):
    problem, features, _ = digits
    theirs = LogisticRegression(C=0.5, max_iter=1000).fit(problem.features.astype(np.float64), problem.labels)
    ours = softmax(rows(Logistic().fit(problem, {"penalty": 2.0}), features), axis=1)
    assert ours == pytest.approx(theirs.predict_proba(features.astype(np.float64)), abs=1e-5)


def test_two_classes_become_two_logits_with_the_same_probabilities(digits, rows):
    problem, features, _ = digits
    pair = problem.select(np.flatnonzero(problem.labels < 2))
    pair.outputs = 2
    theirs = LogisticRegression(C=1.0).fit(pair.features.astype(np.float64), pair.labels)
    ours = softmax(rows(Logistic().fit(pair, {"penalty": 1.0}), features), axis=1)
    assert ours == pytest.approx(theirs.predict_proba(features.astype(np.float64)), abs=1e-5)


def test_a_class_without_samples_is_never_predicted(digits, rows):
    problem, features, _ = digits
    without = problem.select(np.flatnonzero(problem.labels != 2))
    found = softmax(rows(Logistic().fit(without, {"penalty": 1.0}), features), axis=1)
    assert found.shape == (len(features), 4)
    assert found[:, 2].max() < 1e-6


def test_several_labels_are_fitted_one_by_one(several, rows):
    problem, features, labels = several
    found = expit(rows(Logistic().fit(problem, {"penalty": 1.0}), features))
    for column in range(2):
        theirs = LogisticRegression(C=1.0, max_iter=1000).fit(problem.features.astype(np.float64), problem.labels[:, column])
        assert found[:, column] == pytest.approx(theirs.predict_proba(features.astype(np.float64))[:, 1], abs=1e-5)
    assert ((found > 0.5) == (labels > 0.5)).mean() > 0.9


def test_a_label_that_is_always_there_is_always_predicted(several, rows):
    problem, features, _ = several
    always = problem.select(np.arange(100))
    always.labels = np.ones_like(always.labels)
    assert (rows(Logistic().fit(always, {"penalty": 1.0}), features) > 10).all()
