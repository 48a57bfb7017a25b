"""Mean of the weights."""

import numpy as np
import torch

from transfuse.fusion.weights.mean import mean


def test_every_entry_is_the_mean_of_the_sources():
    states = [{"w": torch.randn(3, 4, dtype=torch.float64)} for _ in range(3)]
    made = mean(states)["w"].numpy()
    for place in np.ndindex(3, 4):
        assert np.isclose(made[place], sum(float(state["w"][place]) for state in states) / 3, rtol=1e-14)
