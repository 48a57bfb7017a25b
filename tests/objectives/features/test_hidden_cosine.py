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


def directions(student, teacher):
    """The value and its gradient by the student, both by hand: sum of (s / |s| - t / |t|)^2, |s| = 1 where s is shorter than 1e-6."""
    length = sum(value**2 for value in student) ** 0.5
    toward = [value / sum(one**2 for one in teacher) ** 0.5 for value in teacher]
    own = [value / length for value in student] if length > 1e-6 else student
    value = sum((one - other) ** 2 for one, other in zip(own, toward, strict=True))
    slopes = [2 * (one - other) for one, other in zip(own, toward, strict=True)]
    if length <= 1e-6:
        return value, slopes
    along = sum(slope * one for slope, one in zip(slopes, own, strict=True))
    return value, [(slope - along * one) / length for slope, one in zip(slopes, own, strict=True)]


@pytest.mark.parametrize("student", [[0.0, 0.0, 0.0], [3e-7, -4e-7, 0.0], [3e-3, -4e-3, 1e-3], [0.5, 2.0, -1.0]])
def test_a_vector_too_short_to_have_a_direction_is_left_as_it_is_and_so_is_its_gradient(student):
    teacher, given = [1.0, 2.0, -2.0], torch.tensor([student], dtype=torch.float64, requires_grad=True)
    found = hidden_cosine_loss(given, torch.tensor([teacher], dtype=torch.float64))
    value, slopes = directions(student, teacher)
    torch.testing.assert_close(found, torch.tensor([value], dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(found.sum(), given)[0], torch.tensor([slopes], dtype=torch.float64))
