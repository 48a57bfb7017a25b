"""Inter-channel correlation against both forms, with and without its bridge."""

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import narrow_student, scaled_student, with_student
from tests.reference.ickd import ickd_reference
from transfuse.objectives.relations.ickd import ICKD, ickd_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, example_step


def through_bridge(objective, step):
    teacher_features = next(iter(step.teacher.features.values()))
    return ickd_loss(objective.bridge(step.student.features["stage1"]), teacher_features, objective.form)


def test_ickd_is_proved():
    check_objective(ICKD, ickd_reference, zero_at_equality=True, invariance={"normalised rows ignore scale": scaled_student})


def test_ickd_is_proved_through_its_bridge():
    check_objective(ICKD, ickd_reference, make_step=narrow_student, particulars=Particulars(function=through_bridge))


def test_the_papers_form_is_proved():
    reason = {"extreme": "the gradient is cubic in the features: at 1e4 it is finite in float32, but above float16's largest number"}
    check_objective(ICKD, ickd_reference, {"form": "paper"}, zero_at_equality=True, checks=QUICK, particulars=Particulars(skip=reason))


def test_features_of_1e4_give_finite_values_and_gradients():
    student_features = (1e4 * torch.randn(2, 3, 4, 4)).requires_grad_()
    values = ickd_loss(student_features, 1e4 * torch.randn(2, 3, 4, 4), form="paper")
    values.sum().backward()
    assert student_features.grad is not None
    assert torch.isfinite(values).all()
    assert torch.isfinite(student_features.grad).all()


def test_a_sum_over_the_batch_is_caught():
    def wrong(self, step):
        return ickd_loss(step.student.features["stage1"], step.teacher.features["stage1"]).sum()

    assert_caught(ICKD, wrong, ickd_reference)


def test_features_without_space_are_refused_before_training():
    with pytest.raises(ValueError, match="maps"):
        ICKD().build({"fc": (2, 8)}, {"fc": (2, 8)})
    with pytest.raises(ValueError, match="differ in size"):
        ickd_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2), form="paper")


def test_tokens_are_compared_with_maps():
    step = example_step(Sizes(student_spatial=(3, 3)), taps=1)
    tokens = step.student.features["stage1"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(ICKD()(with_student(step, tokens)), ICKD()(step))
