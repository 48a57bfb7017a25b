"""Paired tests: signs, counts, and agreement with scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from transfuse.errors import DataError
from transfuse.evaluate.outcomes import outcomes
from transfuse.evaluate.paired import paired_test, paired_tests


def said(labels, wrong):
    """Outcomes of a model that errs on the first `wrong` samples."""
    predicted = np.where(np.arange(len(labels)) < wrong, (labels + 1) % 3, labels)
    return outcomes("classification", np.eye(3)[predicted] * 4.0, labels)


def test_the_difference_is_the_second_minus_the_first_with_mcnemars_exact_p():
    labels = np.random.default_rng(0).integers(3, size=200)
    found = paired_test("classification", ("a", "b"), said(labels, 50), said(labels, 20))
    assert found["difference"] == pytest.approx(30 / 200)
    assert found["interval"][0] > 0
    assert (found["only_first_right"], found["only_second_right"]) == (0, 30)
    assert found["mcnemar"] == pytest.approx(binomtest(0, 30).pvalue)


def test_a_model_beside_itself_differs_by_nothing():
    labels = np.random.default_rng(0).integers(3, size=100)
    found = paired_test("classification", ("a", "b"), said(labels, 30), said(labels, 30))
    assert found["difference"] == 0
    assert found["interval"] == [0, 0]
    assert found["mcnemar"] == 1


def test_a_larger_error_is_a_positive_difference_of_rmse():
    labels = np.random.default_rng(0).normal(size=80)
    near, far = (outcomes("regression", labels + shift, labels) for shift in (0.1, 0.5))
    found = paired_test("regression", ("near", "far"), near, far)
    assert found["difference"] == pytest.approx(0.4)
    assert "mcnemar" not in found


def test_all_pairs_or_one_against_all():
    labels = np.random.default_rng(0).integers(3, size=60)
    models = {name: said(labels, wrong) for name, wrong in (("a", 5), ("b", 9), ("c", 20))}
    assert [test["models"] for test in paired_tests("classification", models)] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert [test["models"] for test in paired_tests("classification", models, against="b")] == [["b", "a"], ["b", "c"]]


def test_models_of_different_samples_are_refused():
    labels = np.zeros(5, int)
    with pytest.raises(DataError, match="5 and 4"):
        paired_test("classification", ("a", "b"), said(labels, 1), said(labels[:4], 1))
