"""Fidelity and CKA against definitions written as loops, and the invariances of CKA."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from transfuse.evaluate.fidelity import fidelity, linear_cka


def hsic(first, second):
    """tr(K H L H) with Gram matrices, float64."""
    n = len(first)
    centring = np.eye(n) - 1 / n
    return np.trace(first @ first.T @ centring @ second @ second.T @ centring)


@pytest.mark.parametrize(("n", "widths"), [(60, (5, 9)), (6, (12, 30)), (20, (30, 4))])
def test_cka_is_the_ratio_of_hilbert_schmidt_criteria(n, widths):
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(n, width)) for width in widths)
    y[:, :3] += x[:, :3]
    assert linear_cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def test_cka_does_not_see_rotation_scale_or_shift():
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 8))
    assert linear_cka(x, 3 * x @ ortho_group.rvs(8, random_state=0) + 5) == pytest.approx(1)
    assert linear_cka(x, random.normal(size=(50, 8))) < 0.5
    assert linear_cka(x, np.ones((50, 3))) is None


def test_who_is_right_is_counted_sample_by_sample():
    labels = np.array([0, 1, 2, 2, 1, 0, -1])
    student, teacher = (np.eye(3)[said] for said in ([0, 1, 0, 0, 1, 2, 0], [0, 2, 2, 0, 1, 1, 0]))
    found = fidelity("classification", student, teacher, labels, ["a", "b", "c"])
    assert (found["both_right"], found["only_student_right"], found["only_teacher_right"], found["both_wrong"]) == (2, 1, 1, 2)
    rows = {row["class"]: row for row in found["per_class"]}
    assert rows["b"]["gap"] == pytest.approx(1 - 0.5)
    assert rows["c"]["gap"] == pytest.approx(0 - 0.5)
    assert rows["a"]["agreement"] == 0.5
    assert found["agreement"] == pytest.approx(4 / 7)


def test_samples_without_an_answer_are_left_out():
    student = np.eye(2)[[0, 1, 0]]
    teacher = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, 1.0]])
    found = fidelity("classification", student, teacher, np.array([0, 1, 1]), ["a", "b"])
    assert found["both_right"] + found["only_student_right"] + found["only_teacher_right"] + found["both_wrong"] == 2


def test_regression_has_a_distance_and_no_classes():
    found = fidelity("regression", np.array([1.0, 2.0]), np.array([1.0, 4.0]), np.array([0.0, 0.0]), [])
    assert found["rmse_to_teacher"] == pytest.approx(np.sqrt(2))
    assert "per_class" not in found
