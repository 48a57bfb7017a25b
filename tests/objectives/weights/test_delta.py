"""DELTA against the formula, with and without attention, over several taps, and the sum over the batch."""

from functools import partial

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.reference.delta import delta_reference
from transfuse.objectives.weights.delta import DELTA, delta_loss
from transfuse.testing import QUICK, Particulars, build, check_objective, example_step


def attending(objective, step):
    build(objective, step)
    generator = torch.Generator().manual_seed(7)
    objective.attend([torch.randn(feature.shape[1], generator=generator) for feature in step.student.features.values()])


def by_function(objective, step):
    pairs = zip(step.student.features.values(), step.teacher.features.values(), strict=True)
    values = [delta_loss(one, other, getattr(objective, f"attention_{tap}")) for tap, (one, other) in enumerate(pairs)]
    return torch.stack(values).sum(0)


def test_delta_is_proved():
    check_objective(DELTA, delta_reference, zero_at_equality=True)


def test_attention_and_several_taps_are_proved():
    particulars = Particulars(prepare=attending, function=by_function)
    two_taps = partial(example_step, taps=2)
    check_objective(DELTA, delta_reference, make_step=two_taps, zero_at_equality=True, checks=QUICK, particulars=particulars)


def test_attention_is_a_softmax_of_what_each_channel_is_worth():
    objective = DELTA()
    objective.build({"layer4": (2, 3, 4, 4)}, {"layer4": (2, 3, 4, 4)})
    objective.attend([torch.tensor([0.0, 0.0, 2.0]).log1p()])
    torch.testing.assert_close(objective.get_buffer("attention_0"), 3 * torch.tensor([0.2, 0.2, 0.6]))
    with pytest.raises(ValueError, match="channels"):
        objective.attend([torch.zeros(4)])


def test_vectors_and_tokens_count_their_width_as_channels():
    maps = torch.randn(2, 5, 3, 3)
    other, attention = torch.randn_like(maps), torch.rand(5)
    tokens, other_tokens = (values.flatten(2).transpose(1, 2) for values in (maps, other))
    torch.testing.assert_close(delta_loss(tokens, other_tokens, attention), delta_loss(maps, other, attention))
    vectors, other_vectors = maps[:, :, :1, :1], other[:, :, :1, :1]
    torch.testing.assert_close(delta_loss(vectors.flatten(1), other_vectors.flatten(1)), delta_loss(vectors, other_vectors))


def test_a_teacher_that_is_another_network_is_refused_before_training():
    with pytest.raises(ValueError, match="started from"):
        DELTA().build({"layer4": (2, 3, 4, 4)}, {"layer4": (2, 5, 4, 4)})


def test_a_sum_over_the_batch_is_caught():
    def wrong(self, step):
        return by_function(self, step).sum()

    assert_caught(DELTA, wrong, delta_reference)


def test_a_norm_that_is_not_divided_by_the_pixels_is_caught():
    def wrong(self, step):
        feature = step.student.features["stage1"]
        return by_function(self, step) * feature.shape[2] * feature.shape[3]

    assert_caught(DELTA, wrong, delta_reference)
