"""Thresholds of trees, and networks that end in predictors."""

import numpy as np
import torch
from torch import nn

from transfuse.core.grafts import graft, grafts_of, regraft
from transfuse.core.predictors import Forest, KernelMachine, NearestNeighbours, Scaled, not_above


def test_a_threshold_in_float32_decides_as_the_one_in_float64():
    random = np.random.default_rng(0)
    values = random.normal(size=2000).astype(np.float32)
    thresholds = np.concatenate([values[:1000].astype(np.float64), (values[1000:].astype(np.float64) + np.spacing(values[1000:]) / 3)])
    rounded = not_above(thresholds)
    assert rounded.dtype == np.float32
    assert ((values <= thresholds) == (values <= rounded)).all()
    below = values.astype(np.float64) - np.abs(np.spacing(values)) / 3
    assert not (values <= not_above(below)).any()


def test_a_network_that_ends_in_one_is_made_again_from_its_record():
    def ends():
        return [
            [Scaled(4), NearestNeighbours(5, 4, 3, 2, True)],
            [KernelMachine(6, 4, 3, 0.5)],
            [Forest(7, 2, 3, 3, True)],
        ]

    for layers in ends():
        network, other = (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 9)) for _ in range(2))
        for layer in layers:
            for buffer in layer.buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.1, 1.0)
        graft(network, "2", "instead", layers)
        regraft(other, grafts_of(network))
        other.load_state_dict(network.state_dict())
        inputs = torch.randn(6, 2)
        assert torch.equal(network.eval()(inputs), other.eval()(inputs))
        assert network(inputs).shape == (6, 3)
