"""Agreement and KL against scipy and torch's distributions."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from transfuse.errors import DataError
from transfuse.evaluate.agreement import agreement


def pair(n=50, classes=6):
    random = np.random.default_rng(0)
    return random.normal(size=(n, classes)), random.normal(size=(n, classes))


def test_classification_agrees_with_scipy():
    student, teacher = pair()
    found = agreement(student, teacher, "classification")
    expected = np.mean([stats.entropy(p, q) for p, q in zip(special.softmax(teacher, 1), special.softmax(student, 1), strict=True)])
    assert found["kl"] == pytest.approx(expected, abs=1e-9)
    assert found["agreement"] == np.mean(student.argmax(1) == teacher.argmax(1))


@pytest.mark.parametrize(("task", "classes"), [("multilabel", 6), ("classification", 1)])
def test_independent_outputs_use_the_bernoulli_divergence(task, classes):
    student, teacher = pair(classes=classes)
    found = agreement(student, teacher, task)
    distributions = [torch.distributions.Bernoulli(logits=torch.tensor(logits)) for logits in (teacher, student)]
    assert found["kl"] == pytest.approx(torch.distributions.kl_divergence(*distributions).mean().item(), abs=1e-9)
    assert found["agreement"] == np.mean((student > 0) == (teacher > 0))


def test_one_logit_can_be_compared_with_two():
    student, teacher = pair(classes=2)
    single = teacher[:, 1:] - teacher[:, :1]
    assert agreement(student, single, "classification") == pytest.approx(agreement(student, teacher, "classification"))


def test_a_model_agrees_with_itself():
    student, _ = pair()
    assert agreement(student, student + 3, "classification") == pytest.approx({"agreement": 1, "kl": 0}, abs=1e-12)


def test_regression_has_a_distance_instead():
    student, teacher = pair(classes=2)
    found = agreement(student, teacher, "regression")
    assert found["agreement"] is None
    assert found["kl"] is None
    assert found["rmse_to_teacher"] == pytest.approx(np.sqrt(((student - teacher) ** 2).mean(0)).mean())


def test_samples_without_an_answer_are_left_out():
    student, teacher = pair()
    teacher[10:] = np.nan
    assert agreement(student, teacher, "classification") == agreement(student[:10], teacher[:10], "classification")
    teacher[:] = np.nan
    assert agreement(student, teacher, "classification") == {"agreement": None, "kl": None}


def test_zero_probabilities_count_as_their_limit():
    teacher = np.array([[0.0, -np.inf]])
    assert agreement(np.zeros((1, 2)), teacher, "classification")["kl"] == pytest.approx(np.log(2))
    assert agreement(teacher, teacher, "classification")["kl"] == 0
    assert agreement(teacher, np.zeros((1, 2)), "classification")["kl"] is None


def test_different_shapes_are_refused():
    with pytest.raises(DataError, match="can't be compared"):
        agreement(np.zeros((3, 2)), np.zeros((3, 4)), "classification")
