"""DELTA against the formula, with and without attention, over several taps, and the sum over the batch."""

from functools import partial

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.reference.delta import delta_reference
from transfuse.core.types import Trial
from transfuse.objectives.weights.delta import DELTA, delta_loss, loss_increases
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


def test_measured_attention_is_the_growth_of_the_loss_without_each_channel():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = torch.nn.Sequential(*network, torch.nn.Linear(3, 2)).eval()
    inputs, labels = torch.randn(6, 1, 5, 5), torch.tensor([0, 1, 0, 1, 1, 0])

    def batches(samples):
        yield inputs[:4], labels[:4]
        yield inputs[4:], labels[4:]

    def loss(outputs, labels):
        return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")

    trial = Trial(network, "classification", batches, loss)
    objective = DELTA("paper", samples=6)
    shapes = {"1": (1, 3, 3, 3)}
    objective.build(shapes, shapes)
    assert "3 channels" in objective.probe(trial, trial)
    features = network[:2](inputs)
    expected = []
    for channel in range(3):
        silenced = features.clone()
        silenced[:, channel] = 0
        expected.append(loss(network[2:](silenced), labels).mean() - loss(network(inputs), labels).mean())
    torch.testing.assert_close(objective.get_buffer("attention_0"), 3 * torch.stack(expected).softmax(0).detach())
    torch.testing.assert_close(loss_increases(trial, "2@input", 3, 6), torch.stack(expected).detach())


def test_the_codes_attention_is_that_of_standardised_increases():
    objective, increases = DELTA("code"), torch.tensor([0.0, 1e-4, 5e-4, 2e-4])
    objective.build({"a": (2, 4, 1, 1)}, {"a": (2, 4, 1, 1)})
    objective.attend([increases])
    standard = (increases - increases.mean()) / increases.var(correction=0).sqrt()
    torch.testing.assert_close(objective.get_buffer("attention_0"), 4 * (standard / 5).exp() / (standard / 5).exp().sum())


def test_even_attention_asks_for_no_look_and_measured_attention_for_a_network():
    table = Trial(torch.nn.Identity(), "classification", lambda samples: iter(()), torch.nn.functional.cross_entropy)
    assert DELTA().probe(table, None) == ""
    with pytest.raises(ValueError, match="teacher is none"):
        DELTA("paper").probe(table, None)
    with pytest.raises(ValueError, match="entry of several"):
        DELTA("paper").build({"a[1]": (2, 4)}, {"a[1]": (2, 4)})
