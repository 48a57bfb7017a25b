"""FT against the formula, with a paraphraser that only its reconstruction trains."""

from dataclasses import replace

import pytest
import torch

from tests.reference.ft import ft_reference
from transfuse.errors import ModelError
from transfuse.objectives.features.ft import FT, ft_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, run


def features(step):
    return step.student.features["stage1"], step.teacher.features["stage1"]


def value(objective, step, fixed):
    """The transfer to the factors of `fixed`, and the objective's own reconstruction."""
    student, teacher = features(step)
    rebuilt = objective.decoders[0](objective.encoders[0](teacher))
    transfer = ft_loss(objective.translators[0](student), fixed.encoders[0](teacher), objective.norm)
    return transfer + objective.reconstruction * (rebuilt - teacher).square().mean((1, 2, 3))


PARTICULARS = Particulars(
    function=lambda objective, step: value(objective, step, objective),
    surrogate=lambda objective, step, objective_0, step_0: value(objective, step, objective_0),
)


def test_ft_is_proved():
    check_objective(FT, ft_reference, particulars=PARTICULARS)


def test_squared_differences_are_proved():
    check_objective(FT, ft_reference, {"norm": 2, "rate": 1.0, "reconstruction": 1.0}, checks=QUICK, particulars=PARTICULARS)


def test_at_first_only_the_paraphraser_learns():
    step = replace(example_step(Sizes(), taps=1), progress=0.05)
    objective = FT(first=0.1)
    build(objective, step)
    outcome = run(objective.double(), step)
    assert outcome.gradients["student.features.stage1"].abs().max() == 0
    assert outcome.gradients["objective.encoders.0.0.weight"].abs().max() > 0


def test_factors_have_no_length_and_equal_ones_cost_nothing():
    one, other = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(ft_loss(7 * one, 0.1 * other), ft_loss(one, other))
    assert ft_loss(one, one).abs().max() == 0


def test_vectors_and_other_channels_are_refused():
    with pytest.raises(ModelError, match="features with positions"):
        FT().build({"a": (1, 3)}, {"a": (1, 3, 4, 4)})
    with pytest.raises(ValueError, match="translate the student's first"):
        ft_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 4))
