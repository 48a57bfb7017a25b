"""DELTA against the formula, with and without attention, over several taps, and the sum over the batch."""

from functools import partial

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.objectives.planting import assert_caught
from tests.reference.delta import delta_reference
from transfuse.core.types import Trial
from transfuse.objectives.weights._new_head import fit_head
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


def convolutional(outputs):
    torch.manual_seed(0)
    body = [torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*body, torch.nn.Linear(3, outputs)).eval()


def trial(network, labels, task="classification"):
    inputs = torch.randn(len(labels), 1, 5, 5, generator=torch.Generator().manual_seed(1))

    def batches(samples):
        yield inputs[:4], labels[:4]
        yield inputs[4:samples], labels[4:samples]

    def loss(outputs, labels):
        if task == "regression":
            return (outputs - labels).square().mean(-1)
        return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")

    return Trial(network, task, batches, loss), inputs


def logistic(features, labels, decay=0.01):
    """Weights [classes, width + 1] of a logistic regression with L2 on everything, by scikit-learn."""
    shown = torch.cat([features, torch.ones(len(features), 1)], 1).double().numpy()
    found = LogisticRegression(C=1 / (decay * len(labels)), fit_intercept=False, tol=1e-10, max_iter=10000).fit(shown, labels.numpy())
    return torch.tensor(found.coef_)


def cross_entropy(weights, features, labels):
    logits = torch.cat([features, torch.ones(len(features), 1)], 1).double() @ weights.T
    return -logits.log_softmax(-1).gather(1, labels[:, None]).mean()


def test_measured_attention_is_the_growth_of_the_loss_of_a_new_head_without_each_channel():
    labels = torch.arange(24) % 3
    source, student = convolutional(7), convolutional(3)  # the source's outputs are other classes, and more of them
    (asked, inputs), (own, _) = trial(source, labels), trial(student, labels)
    objective = DELTA("paper", samples=24)
    objective.build({"1": (1, 3, 3, 3)}, {"1": (1, 3, 3, 3)})
    assert "3 channels" in objective.probe(own, asked)
    features = source[:2](inputs).detach()
    weights = logistic(features.mean((2, 3)), labels)
    expected = []
    for channel in range(3):
        silenced = features.clone()
        silenced[:, channel] = 0
        pooled, without = features.mean((2, 3)), silenced.mean((2, 3))
        expected.append(cross_entropy(weights, without, labels) - cross_entropy(weights, pooled, labels))
    attention = (3 * torch.stack(expected).softmax(0)).float()
    assert (attention.max() - attention.min()) > 1e-3
    torch.testing.assert_close(objective.get_buffer("attention_0"), attention, rtol=1e-4, atol=0)
    head = fit_head(asked, 3, 24)
    torch.testing.assert_close(loss_increases(head, "4@input", 3, 24), torch.stack(expected).float(), rtol=1e-3, atol=1e-6)


def test_what_the_sources_outputs_mean_does_not_change_the_attention():
    labels, found = torch.arange(24) % 3, []
    for order in (range(7), (6, 5, 4, 3, 2, 1, 0)):
        source = convolutional(7)
        with torch.no_grad():
            source[4].weight.copy_(source[4].weight[list(order)])
        objective = DELTA("code", samples=24)
        objective.build({"1": (1, 3, 3, 3)}, {"1": (1, 3, 3, 3)})
        objective.probe(trial(convolutional(3), labels)[0], trial(source, labels)[0])
        found.append(objective.get_buffer("attention_0"))
    torch.testing.assert_close(found[0], found[1])


def test_a_head_for_numbers_is_a_ridge_regression():
    values = torch.randn(24, 2, generator=torch.Generator().manual_seed(3))
    source = convolutional(5)
    asked, inputs = trial(source, values, "regression")
    features = torch.cat([source[:4](inputs).detach(), torch.ones(24, 1)], 1).double()
    # the mean over 24 samples and 2 outputs of squares, and 0.01 / 2 of the weights' squares
    gram = features.T @ features / 24 + 0.01 * torch.eye(4, dtype=torch.float64)
    expected = torch.linalg.solve(gram, features.T @ values.double() / 24).T.float()
    torch.testing.assert_close(fit_head(asked, 2, 24).weight, expected, rtol=1e-4, atol=1e-5)


def test_labels_without_an_output_and_a_tap_behind_the_head_are_refused():
    labels = torch.arange(25) % 5
    objective = DELTA("paper", samples=25)
    objective.build({"1": (1, 3, 3, 3)}, {"1": (1, 3, 3, 3)})
    with pytest.raises(ValueError, match="class number 4, and the student has 3 outputs"):
        objective.probe(trial(convolutional(3), labels)[0], trial(convolutional(3), labels)[0])
    head = fit_head(trial(convolutional(3), labels)[0], 5, 25)
    with pytest.raises(ValueError, match="in front of it"):
        loss_increases(head, "4", 3, 25)


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
