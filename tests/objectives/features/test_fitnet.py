"""FitNet against the formula with its regressor, in both forms, and between networks of other kinds."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.features.steps import token_step
from tests.reference.fitnet import fitnet_reference
from transfuse.core.stages import Stage, stages_of
from transfuse.objectives.features.fitnet import FitNet, fitnet_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return fitnet_loss(*objective.bridges[0](student, teacher), objective.form)


def test_fitnet_is_proved():
    check_objective(FitNet, fitnet_reference, particulars=Particulars(function=function))


def test_without_a_regressor_it_is_zero_at_equality_and_half_the_sum_in_the_papers_form():
    arguments = {"regressor": "channels_differ", "form": "paper"}
    check_objective(FitNet, fitnet_reference, arguments, zero_at_equality=True, checks=QUICK)


def test_the_hint_is_a_term_among_others_unless_it_is_to_come_first():
    assert stages_of(FitNet()) == ()
    assert stages_of(FitNet(when="first", share=0.3)) == (Stage("first", 0.3),)
    check_objective(FitNet, fitnet_reference, {"when": "first"}, checks=["value", "schema"])


def test_tokens_are_compared_with_maps():
    maps, tokens = example_step(Sizes(), taps=1), token_step(Sizes())
    step = replace(tokens, student=maps.student)
    objective = FitNet(regressor="channels_differ")
    build(objective, step)
    same = FitNet(regressor="channels_differ")
    build(same, maps)
    torch.testing.assert_close(objective(step), same(maps))  # the same numbers in another layout


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match="can't be compared entry by entry"):
        fitnet_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4))
