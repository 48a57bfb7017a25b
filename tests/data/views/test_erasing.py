"""Random erasing hides rectangles of the right size, as often as asked, and nothing beside them."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests.data.views.pictures import smooth
from transfuse.data.views import Draws, Erasing
from transfuse.data.views.boxes import drawn_boxes

SCALE, RATIO = (0.02, 0.33), (0.3, 3.3)


def draws_of(count, seed=0):
    return Draws(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_asked_share_of_views_loses_a_rectangle(probability):
    raw = smooth(1, 1, 16, 16).expand(3000, -1, -1, -1)
    changed = (Erasing(probability, SCALE, RATIO, "noise")(raw, draws_of(3000)) != raw).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 3000, probability).pvalue > 1e-4


@pytest.mark.parametrize("fill", ["noise", "mean"])
def test_what_is_hidden_is_one_rectangle_and_the_rest_stays(fill):
    raw, draws = smooth(200, 3, 40, 30), draws_of(200, seed=1)
    out = Erasing(1.0, SCALE, RATIO, fill)(raw, draws)
    boxes = drawn_boxes(draws, "erasing", (40, 30), SCALE, RATIO)
    for number in range(200):
        top, left, height, width = (int(part[number]) for part in (boxes.top, boxes.left, boxes.height, boxes.width))
        hidden = np.zeros((40, 30), dtype=bool)
        hidden[top : top + height, left : left + width] = True
        assert hidden.sum() == height * width
        assert torch.equal(out[number][:, ~hidden], raw[number][:, ~hidden])
        if fill == "mean":
            means = raw[number].double().mean((1, 2))
            assert (out[number][:, hidden].double() - means[:, None]).abs().max() <= 0.5
        elif hidden.sum() > 20:
            assert out[number][:, hidden].double().std() > 40  # 74 for uniform bytes


def test_noise_differs_between_samples_that_look_alike():
    raw = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    out = Erasing(1.0, (0.9, 1.0), (1.0, 1.0), "noise")(raw, draws_of(2))
    assert (out[0] != out[1]).float().mean() > 0.7


def test_a_picture_in_which_nothing_fits_stays_whole():
    raw = smooth(20, 1, 2, 200)
    assert torch.equal(Erasing(1.0, (0.9, 1.0), (0.9, 1.1), "mean")(raw, draws_of(20)), raw)
