"""y = W f_large(x): the ridge regression in closed form, put into a network's last layer."""

import numpy as np
import pytest
import torch

from transfuse.errors import ModelError
from transfuse.policies.init.compress_outputs import CompressOutputs, logit_scale, ridge_map

from .scenes import inputs, network, scene


def normal_equations(features, labels, strength):
    """Slowly, in float64, from the definition."""
    centred, wanted = features - features.mean(0), labels - labels.mean(0)
    weight = np.linalg.solve(centred.T @ centred + strength * np.eye(features.shape[1]), centred.T @ wanted).T
    return weight, labels.mean(0) - weight @ features.mean(0)


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_map_solves_the_normal_equations(strength):
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(60, 8)) + 1, random.normal(size=(60, 3))
    weight, bias, used = ridge_map(torch.from_numpy(features), torch.from_numpy(labels), strength)
    wanted = normal_equations(features, labels, strength)
    np.testing.assert_allclose(weight.numpy(), wanted[0], rtol=1e-8)
    np.testing.assert_allclose(bias.numpy(), wanted[1], rtol=1e-8)
    assert used == strength


def test_without_a_strength_the_leave_one_out_error_decides():
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 20))
    labels = features[:, :1] + 3 * random.normal(size=(30, 1))
    _, _, used = ridge_map(torch.from_numpy(features), torch.from_numpy(labels))

    def error(strength):
        rows = [np.delete(np.arange(30), out) for out in range(30)]
        fits = [normal_equations(features[kept], labels[kept], strength) for kept in rows]
        return np.mean([(labels[out] - weight @ features[out] - bias) ** 2 for out, (weight, bias) in enumerate(fits)])

    errors = {10.0**power: error(10.0**power) for power in range(-4, 7)}
    assert errors[used] == min(errors.values())


def test_the_student_says_what_the_map_makes_of_the_sources_features():
    source, student, given = network("builtin:resnet8", width=0.5), network("builtin:resnet8", seed=1, width=0.5), inputs()
    labels = torch.randn(len(given), 5, generator=torch.Generator().manual_seed(2))  # targets, so that nothing is scaled
    moved = CompressOutputs(strength=1.0)(source, student, scene(given, labels))
    features = {}
    source.linear.register_forward_pre_hook(lambda _, arguments: features.update(seen=arguments[0]))
    with torch.no_grad():
        source(given)
        answers = student(given)
    weight, bias = normal_equations(features["seen"].double().numpy(), labels.double().numpy(), 1.0)
    np.testing.assert_allclose(answers.numpy(), features["seen"].numpy() @ weight.T + bias, atol=1e-4)
    assert {row.tensor: row.kind for row in moved.rows}["linear.weight"] == "fitted"


def test_a_map_of_the_sources_outputs_is_folded_into_one_layer():
    source, student, given = network("builtin:mlp", widths=[12], outputs=9), network("builtin:mlp", seed=1, widths=[12]), inputs()
    labels = torch.randn(len(given), 5, generator=torch.Generator().manual_seed(2))
    CompressOutputs(of="outputs", strength=1.0)(source, student, scene(given, labels))
    with torch.no_grad():
        said, answers = source(given).double().numpy(), student(given)
    weight, bias = normal_equations(said, labels.double().numpy(), 1.0)
    np.testing.assert_allclose(answers.numpy(), said @ weight.T + bias, atol=1e-4)


def test_answers_near_one_hot_rows_become_logits_with_the_smallest_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    labels = torch.eye(4)[torch.randint(0, 4, (200,), generator=generator)].double()
    answers = 0.5 * labels + 0.2 * torch.randn(200, 4, generator=generator)
    losses = {scale: float(-(labels * torch.log_softmax(answers * scale, 1)).sum(1).mean()) for scale in np.geomspace(1, 100, 400)}
    assert logit_scale(answers, labels) == pytest.approx(min(losses, key=losses.get), rel=0.03)


def test_a_body_of_another_width_is_refused():
    with pytest.raises(ModelError, match="the last layer"):
        CompressOutputs(of="outputs")(network("builtin:mlp", widths=[12]), network("builtin:mlp", seed=1, widths=[7]), scene(inputs()))
