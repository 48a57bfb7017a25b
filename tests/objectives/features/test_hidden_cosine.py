"""Directions of hidden states against the cosine, for every choice of tokens."""

import pytest
import torch

from tests.objectives.features.steps import features_times, student_features_times, token_step
from tests.reference.hidden_cosine import hidden_cosine_reference
from transfuse.objectives.features.hidden_cosine import HiddenCosine, hidden_cosine_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step

LENGTHS = {"directions have no length": features_times(0.5, 3.0), "nor a common unit": student_features_times(7.0)}


def first_tokens(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return hidden_cosine_loss(student[:, 0], teacher[:, 0], objective.distance)


def test_hidden_cosine_is_proved():
    check_objective(
        HiddenCosine,
        hidden_cosine_reference,
        make_step=token_step,
        zero_at_equality=True,
        invariance=LENGTHS,
        particulars=Particulars(function=first_tokens),
    )


@pytest.mark.parametrize("tokens", ["all", "mean"])
def test_all_tokens_and_their_mean_are_proved(tokens):
    arguments = {"tokens": tokens, "distance": "cosine"}
    particulars = Particulars(skip={"function": "takes what the class chooses"})
    check_objective(HiddenCosine, hidden_cosine_reference, arguments, token_step, True, LENGTHS, checks=QUICK, particulars=particulars)


def test_maps_have_no_first_token():
    with pytest.raises(ValueError, match="use tokens: mean"):
        build(HiddenCosine(), example_step(Sizes(), taps=1))


def test_other_widths_are_bridged():
    objective = HiddenCosine()
    objective.build({"a": (1, 5, 8)}, {"b": (1, 7, 12)})
    assert {name: tuple(value.shape) for name, value in objective.named_parameters()} == {
        "bridges.0.project.weight": (12, 8),
        "bridges.0.project.bias": (12,),
    }


def test_the_cosine_is_torchs():
    one, other = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(hidden_cosine_loss(one, other, "cosine"), 1 - torch.nn.functional.cosine_similarity(one, other))
