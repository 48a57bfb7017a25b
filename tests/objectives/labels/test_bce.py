"""Binary cross-entropy against the formula and torch, with unknown labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.reference.bce import bce_reference
from transfuse.objectives.labels.bce import BCE, bce_loss
from transfuse.testing import Sizes, check_objective, example_step, reverse_classes, run


def partly_known(sizes):
    step = example_step(sizes, task="multilabel")
    step.batch.labels[0, 0] = step.batch.labels[-1, -1] = float("nan")
    return step


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_bce_is_proved(over):
    arguments = {"smoothing": 0.1, "over": over}
    check_objective(BCE, bce_reference, arguments, make_step=partly_known, invariance={"classes have no order": reverse_classes})


def test_it_is_torchs_with_positive_weights():
    step, weights = example_step(Sizes(), task="multilabel"), [0.5, 2.0, 1.0, 0.25, 4.0]
    logits, labels = step.student.logits.float(), step.batch.labels.float()
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(weights), reduction="none")
    torch.testing.assert_close(bce_loss(logits, labels, positive_weights=torch.tensor(weights)), expected.sum(-1))
    torch.testing.assert_close(BCE(positive_weights=weights, over="mean").double()(step), expected.mean(-1).double(), rtol=1e-5, atol=1e-6)


def test_unknown_labels_have_no_gradient():
    gradient = run(BCE().double(), partly_known(Sizes())).gradients["student.logits"]
    assert gradient[0, 0] == 0
    assert gradient[0, 1] != 0


def test_mixed_labels_take_the_labels_place():
    step = partly_known(Sizes())
    shares = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixed = replace(step, batch=replace(step.batch, label_probabilities=shares))
    labels = torch.where(step.batch.labels.isnan(), step.batch.labels, shares)
    torch.testing.assert_close(BCE()(mixed), bce_loss(step.student.logits, labels))


def test_class_numbers_and_wrong_weights_are_refused(without_runtime_types):
    with pytest.raises(ValueError, match="use cross_entropy"):
        BCE()(example_step(Sizes()))
    with pytest.raises(ValueError, match="one per class"):
        BCE(positive_weights=[1.0])(example_step(Sizes(), task="multilabel"))
