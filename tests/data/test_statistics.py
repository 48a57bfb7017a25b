"""Normalisation and target scaling equal numpy's and scikit-learn's, on any scale of numbers."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from transfuse.data import statistics
from transfuse.data.samples import ArraySamples
from transfuse.data.statistics import fit_preprocess, fit_target


def samples(inputs):
    inputs = torch.as_tensor(inputs)
    return ArraySamples(inputs, torch.zeros(len(inputs), dtype=torch.int64), np.arange(len(inputs)))


def test_columns_are_scaled_as_scikit_learn_scales_them():
    table = (np.random.default_rng(0).normal(size=(500, 4)) * [1, 100, 1e-6, 5] + [0, 1e6, 1e-3, -7]).astype(np.float32)
    preprocess = fit_preprocess(samples(table), "columns", 0)
    reference = StandardScaler().fit(table.astype(np.float64))
    assert preprocess.scale == 1.0
    assert preprocess.mean == pytest.approx(reference.mean_, rel=1e-9)
    assert preprocess.std == pytest.approx(reference.scale_, rel=1e-6)
    scaled = preprocess(torch.from_numpy(table))
    assert torch.allclose(scaled[:, [0, 3]], torch.from_numpy(reference.transform(table.astype(np.float64)))[:, [0, 3]].float(), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-7])
def test_a_constant_column_has_std_1(value):
    table = np.full((1000, 2), value, dtype=np.float32)
    table[:, 1] = np.arange(1000)
    assert fit_preprocess(samples(table), "columns", 0).std[0] == 1.0


def test_8_bit_pictures_are_scaled_by_255_per_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 6), dtype=np.uint8)
    pixels[:, 2] = 7
    preprocess = fit_preprocess(samples(pixels), "image", 0)
    assert preprocess.scale == 1 / 255
    assert preprocess.size == (8, 6)
    assert preprocess.channels == 3
    assert preprocess.mean == pytest.approx((pixels / 255).mean((0, 2, 3)), abs=1e-9)
    assert preprocess.std == pytest.approx([*(pixels[:, :2] / 255).std((0, 2, 3)), 1.0], abs=1e-9)


def test_float_pictures_in_the_range_of_8_bits_are_scaled_alike_and_others_are_not():
    values = np.random.default_rng(0).random((50, 1, 4, 4)).astype(np.float32)
    assert fit_preprocess(samples(values * 255), "image", 0).scale == 1 / 255
    assert fit_preprocess(samples(values * 4 - 2), "image", 0).scale == 1.0


def test_a_sample_of_many_pictures_is_drawn_by_seed(monkeypatch):
    monkeypatch.setattr(statistics, "MOST_PICTURES", 20)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    one, again, other = (fit_preprocess(samples(pixels), "image", seed).mean for seed in (0, 0, 1))
    assert one == again != other
    assert one[0] == pytest.approx(pixels.mean() / 255, abs=0.05)


def test_targets_are_scaled_by_the_labelled_rows():
    labels = torch.tensor([[1.0, 5.0], [3.0, 5.0], [float("nan"), float("nan")], [8.0, 5.0]])
    target = fit_target(labels, ["a", "b"])
    assert target.names == ["a", "b"]
    assert target.mean == pytest.approx([4.0, 5.0])
    assert target.std == pytest.approx([np.std([1, 3, 8]), 1.0])
