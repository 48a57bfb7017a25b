"""Cross-entropy against the formula and torch, with mixed and missing labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.reference.cross_entropy import cross_entropy_reference
from transfuse.objectives.labels.cross_entropy import CrossEntropy, cross_entropy_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step, reverse_classes, shift_student_logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_proved(smoothing):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(CrossEntropy, cross_entropy_reference, {"smoothing": smoothing}, invariance=invariance)


def mixed(sizes):
    step = example_step(sizes)
    shares = torch.rand(sizes.batch, sizes.classes, dtype=torch.float64, generator=torch.Generator().manual_seed(sizes.seed))
    return replace(step, batch=replace(step.batch, label_probabilities=shares / shares.sum(-1, keepdim=True)))


def test_mixed_labels_are_their_expectation():
    particulars = Particulars(
        skip={
            "needs": "mixed labels stand beside the labels and stay when these are taken away",
            "function": "the function takes class numbers; the class adds mixed labels",
            "unlabelled": "see test_mixed_labels_of_unlabelled_samples_give_zero: values, not labels, are taken away",
        }
    )
    check_objective(CrossEntropy, cross_entropy_reference, {"smoothing": 0.1}, make_step=mixed, particulars=particulars)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_the_expectation_of_the_weighted_loss(smoothing):
    step, weights = mixed(Sizes()), [0.5, 2.0, 1.0, 0.25, 4.0]
    logits, probabilities = step.student.logits.numpy(), step.batch.label_probabilities.numpy()
    expected = cross_entropy_reference(logits, step.batch.labels.numpy(), probabilities, smoothing, weights)
    torch.testing.assert_close(CrossEntropy(smoothing, weights)(step), torch.tensor(expected, dtype=torch.float64))


def test_a_mixed_pair_weighs_each_label_with_its_own_weight():
    step, weights, share = example_step(Sizes()), torch.tensor([0.5, 2.0, 1.0, 0.25, 4.0], dtype=torch.float64), 0.3
    labels, partners = step.batch.labels, step.batch.labels.roll(1)
    pair = share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(partners, 5)
    mixture = replace(step, batch=replace(step.batch, label_probabilities=pair.double()))
    expected = share * cross_entropy_loss(step.student.logits, labels, 0.1, weights)
    expected = expected + (1 - share) * cross_entropy_loss(step.student.logits, partners, 0.1, weights)
    torch.testing.assert_close(CrossEntropy(0.1, weights.tolist()).double()(mixture), expected)


def test_mixed_labels_of_unlabelled_samples_give_zero():
    step = mixed(Sizes())
    step.batch.labelled[2] = False
    step.batch.label_probabilities[2] = float("nan")
    assert CrossEntropy()(step)[2] == 0


def test_class_weights_multiply_a_samples_value():
    step, weights = example_step(Sizes()), [0.5, 2.0, 1.0, 0.25, 4.0]
    expected = CrossEntropy(0.1)(step) * torch.tensor(weights)[step.batch.labels]
    torch.testing.assert_close(CrossEntropy(0.1, weights)(step), expected.double())
    hard = replace(step, batch=replace(step.batch, label_probabilities=F.one_hot(step.batch.labels, 5).double()))
    torch.testing.assert_close(CrossEntropy(0.1, weights).double()(hard), expected.double())


def test_it_is_torchs():
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 5
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(cross_entropy_loss(logits, labels, 0.2), expected)


def test_a_wrong_number_of_class_weights_is_refused(without_runtime_types):
    with pytest.raises(ValueError, match="one per class"):
        CrossEntropy(class_weights=[1.0, 2.0])(example_step(Sizes()))
    with pytest.raises(ValueError, match="one per class"):
        CrossEntropy(class_weights=[1.0, 2.0])(mixed(Sizes()))
