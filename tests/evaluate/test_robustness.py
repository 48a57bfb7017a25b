"""Errors on corrupted pictures: of models whose errors are known beforehand."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.data.samples import ArraySamples
from transfuse.errors import DataError
from transfuse.evaluate import corruptions, robustness


class Brightness(nn.Module):
    """Says 1 where the mean is above a half."""

    def forward(self, inputs):
        mean = inputs.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def samples(n=150):
    """Dark pictures of class 0 and bright ones of class 1."""
    labels = torch.arange(n) % 2
    values = (60 + 130 * labels)[:, None, None, None].expand(n, 1, 16, 16)
    return ArraySamples(values.to(torch.uint8).contiguous(), labels, np.arange(n))


ZEROS = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
NETWORKS = {"brightness": (Brightness(), Preprocess(scale=1 / 255)), "zeros": (ZEROS, Preprocess())}


def test_errors_are_shares_of_wrong_answers_by_severity():
    with torch.no_grad():
        ZEROS[1].weight.zero_()
        ZEROS[1].bias.copy_(torch.tensor([1.0, 0.0]))
    rows = robustness.positions(150, None)
    clean = robustness.errors(NETWORKS, samples(), rows, "clean", 0)
    assert clean == {"brightness": [0.0], "zeros": [0.5]}
    bright = robustness.errors(NETWORKS, samples(), rows, "brightness", 0)
    assert bright["zeros"] == [0.5] * 5
    assert bright["brightness"] == [0.0] * 4 + [0.5]  # 60 + 0.3 * 255 is above a half
    block = robustness.summed_up({"clean": clean, "brightness": bright}, 150, (16, 16))
    assert block["models"]["brightness"]["mean_corruption_error"] == pytest.approx(0.1)
    assert block["models"]["zeros"]["mean_increase"] == 0


def test_models_see_the_pictures_that_corrupt_makes():
    seen = []

    class Looking(nn.Module):
        def forward(self, inputs):
            seen.append(inputs)
            return torch.zeros(len(inputs), 2)

    data, rows = samples(70), robustness.positions(70, None)
    robustness.errors({"a": (Looking(), Preprocess())}, data, rows, "gaussian_noise", 5)
    raw = data.raw(range(64)).numpy()
    assert (seen[0].numpy() == corruptions.corrupt(raw, "gaussian_noise", 1, 5, 0)).all()
    assert [len(inputs) for inputs in seen] == [64] * 5 + [6] * 5


def test_some_samples_are_spread_over_all():
    assert robustness.positions(10, 4).tolist() == [0, 3, 6, 9]
    assert robustness.positions(3, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize("inputs", [torch.zeros(4, 3), torch.zeros(4, 1, 8, 8), torch.zeros(4, 2, 8, 8, dtype=torch.uint8)])
def test_other_data_than_pictures_are_refused(inputs):
    with pytest.raises(DataError, match="8-bit pictures"):
        robustness.refuse_unfit(ArraySamples(inputs, torch.zeros(4, dtype=torch.long), np.arange(4)), "classification")
