"""Prediction along the exact path, in order, without side effects."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Target
from transfuse.errors import ModelError
from transfuse.evaluate.predict import original_units, predict


class Columns:
    """Samples whose exact path differs from the raw one."""

    def __init__(self, n=23):
        self.values = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
        self.ids = np.arange(n)
        self.labels = torch.zeros(n, dtype=torch.long)
        self.fingerprint = "columns"

    def __len__(self):
        return len(self.values)

    def raw(self, indices):
        raise AssertionError("evaluation takes the exact path")

    def exact(self, indices, preprocess):
        return preprocess(self.values[indices])


def test_outputs_are_the_models_own_whatever_the_batch_size():
    samples, preprocess = Columns(), Preprocess(mean=(1.0,), std=(2.0,))
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    module.eval()
    expected = module((samples.values - 1) / 2)
    module.train()
    module[1].eval()
    seen = []
    for batch_size in (1, 7, 100):
        found = predict(module, samples, preprocess, batch_size=batch_size, progress=lambda done, total: seen.append((done, total)))
        torch.testing.assert_close(found, expected.detach())
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert [part.training for part in module] == [True, False, True]
    assert seen[-1] == (23, 23)
    assert (7, 23) in seen


def test_the_mode_is_restored_after_a_failure():
    module = nn.Linear(5, 2).train()
    with pytest.raises(RuntimeError):
        predict(module, Columns(), Preprocess())
    assert module.training


def test_a_batch_that_does_not_fit_is_halved():
    class Small(nn.Module):
        def forward(self, inputs):
            if len(inputs) > 6:
                raise torch.OutOfMemoryError("too much")
            return inputs * 2

    samples = Columns()
    torch.testing.assert_close(predict(Small(), samples, Preprocess()), samples.values * 2)


def test_what_is_not_one_row_per_sample_is_refused():
    class Pair(nn.Module):
        def forward(self, inputs):
            return inputs, inputs

    with pytest.raises(ModelError, match="returns tuple"):
        predict(Pair(), Columns(), Preprocess())
    with pytest.raises(ModelError, match="expected"):
        predict(nn.Unflatten(1, (2, 2)), Columns(), Preprocess())
    column = predict(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), Columns(), Preprocess())
    assert column.shape == (23, 1)


def test_original_units_invert_the_scaling():
    target = Target(["a", "b"], [10.0, -1.0], [2.0, 0.5])
    values = torch.tensor([[14.0, 0.0], [10.0, -1.0]])
    scaled = (values - torch.tensor(target.mean)) / torch.tensor(target.std)
    torch.testing.assert_close(original_units(scaled, target), values)
