"""The perceptron learns what no linear layer can, repeats itself, and is held back by weight decay."""

import numpy as np
import torch

from transfuse.probes.mlp import MLP
from transfuse.probes.problem import Problem


def ring(count: int) -> Problem:
    points = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    return Problem(points, (np.square(points).sum(1) > 1.4).astype(np.int64), "classification", 2)


def test_it_learns_what_is_not_linear(rows):
    problem = ring(400)
    head = MLP(hidden=[32], lr=0.02, steps=120).fit(problem.select(np.arange(300)), {"weight_decay": 0.01})
    assert (rows(head, problem.features[300:]).argmax(1) == problem.labels[300:]).mean() > 0.9
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]


def test_it_is_a_function_of_the_seed_and_leaves_torchs_generator_alone(rows):
    problem, head = ring(60), MLP(hidden=[4], steps=2)
    torch.manual_seed(3)
    first = rows(head.fit(problem, {"weight_decay": 0.0}), problem.features)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert (rows(head.fit(problem, {"weight_decay": 0.0}), problem.features) == first).all()
    problem.seed = 1
    assert (rows(head.fit(problem, {"weight_decay": 0.0}), problem.features) != first).any()


def test_targets_and_several_labels_are_learnt(diabetes, several, rows):
    problem, features, labels = diabetes
    found = rows(MLP(hidden=[32], steps=100, lr=0.005).fit(problem, {"weight_decay": 0.1}), features)
    assert np.square(found - labels).mean() < 0.8 * np.square(labels - problem.labels.mean(0)).mean()
    problem, features, labels = several
    found = rows(MLP(hidden=[32], steps=100, lr=0.005).fit(problem, {"weight_decay": 0.1}), features)
    assert ((found[:, 0] > 0) == (labels[:, 0] > 0.5)).mean() > 0.9
