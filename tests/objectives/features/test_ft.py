"""FT against the formula: what the paraphraser is prepared by, and what the student learns afterwards."""

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.features.steps import token_step
from tests.objectives.planting import assert_caught
from tests.reference.ft import ft_reference, paraphrasing_reference
from transfuse.errors import ModelError
from transfuse.objectives.features.ft import CARD, FT, ft_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, run


class Paraphrasing(FT):
    """The preparation as an objective of its own; the student's translators are no part of it."""

    def build(self, student_shapes, teacher_shapes):
        super().build(student_shapes, teacher_shapes)
        del self.translators

    def stages(self):
        return ()

    def forward(self, step):
        return self.prepare(step)


def function(objective, step):
    student, teacher = step.student.features["stage1"], step.teacher.features["stage1"]
    return ft_loss(objective.translators[0](student), objective.encoders[0](teacher), objective.norm, objective.form)


PARTICULARS = Particulars(function=function)


def test_ft_is_proved():
    check_objective(FT, ft_reference, particulars=PARTICULARS)


@pytest.mark.parametrize("arguments", [{"norm": 2, "rate": 1.0}, {"form": "paper"}, {"form": "paper", "norm": 2}], ids=str)
def test_other_differences_are_proved(arguments):
    check_objective(FT, ft_reference, arguments, checks=QUICK, particulars=PARTICULARS)


def test_the_mean_over_channels_of_a_factors_squares_which_circulates_under_this_name_is_caught():
    def wrong(self, step):
        factors = self.translators[0](step.student.features["stage1"]), self.encoders[0](step.teacher.features["stage1"])
        one, other = (F.normalize(factor.square().mean(1).flatten(1)) for factor in factors)
        return (one - other).abs().mean(1)

    assert_caught(FT, wrong, ft_reference, particulars=PARTICULARS)


def test_the_paraphrasers_loss_is_proved():
    no_function = Particulars(card=CARD, skip={"function": "a method, not a function", "schema": "FT's", "card": "FT's"})
    check_objective(Paraphrasing, paraphrasing_reference, particulars=no_function)


def test_the_student_trains_its_translator_and_nothing_that_was_prepared():
    step = example_step(Sizes(), taps=1)
    objective = FT()
    build(objective, step)
    gradients = run(objective.double(), step).gradients
    assert gradients["objective.translators.0.0.weight"].abs().max() > 0
    assert gradients["objective.encoders.0.0.weight"] is None
    assert {name for stage in objective.stages() for name in stage.parts} == {"encoders", "decoders"}


def test_tokens_are_laid_out_alike_before_and_beside_the_student():
    step = token_step(Sizes())
    objective = FT()
    build(objective, step)
    assert objective.double().prepare(step).shape == objective(step).shape == (6,)


def test_factors_have_no_length_and_equal_ones_cost_nothing():
    one, other = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(ft_loss(7 * one, 0.1 * other), ft_loss(one, other))
    assert ft_loss(one, one).abs().max() == 0


def test_vectors_and_other_channels_are_refused():
    with pytest.raises(ModelError, match="features with positions"):
        FT().build({"a": (1, 3)}, {"a": (1, 3, 4, 4)})
    with pytest.raises(ValueError, match="translate the student's first"):
        ft_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 4))
