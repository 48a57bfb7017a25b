"""How a training is validated: where prepared inputs are held, and what happens when a GPU's memory runs out."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataSet, Model
from transfuse.data.samples import ArraySamples
from transfuse.jobs.train import training

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
PREPROCESS = Preprocess(mean=(0.5,), std=(2.0,))


def data(count=1000) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    part = ArraySamples(pictures, torch.arange(count) % 3, np.arange(count))
    return DataSet(part, part, part, None, "classification", ["a", "b", "c"], "image", (1, 4, 4), PREPROCESS, "test")


@pytest.fixture
def free(monkeypatch):
    """A function that sets how many bytes are free on the host and on the GPU."""

    def set_free(host, gpu):
        monkeypatch.setattr(training, "free_memory_bytes", lambda: host)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu, gpu))

    return set_free


def test_prepared_inputs_are_held_where_they_fit(free):
    samples, size = data().val, 1000 * 16 * 4
    expected = {(17, 17): GPU, (17, 16): CPU, (16, 17): GPU, (16, 16): None}
    for (host, gpu), home in expected.items():
        free(host * size, gpu * size)
        assert training.home_of_prepared(samples, PREPROCESS, GPU) == home
        assert training.home_of_prepared(samples, PREPROCESS, CPU) == (CPU if host == 17 else None)


class Picky(nn.Module):
    """Runs out of memory on large batches, and counts those that it has seen."""

    def __init__(self, most):
        super().__init__()
        self.layer, self.most, self.seen = nn.Linear(16, 3), most, 0

    def forward(self, inputs):
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError
        self.seen += len(inputs)
        return self.layer(inputs.flatten(1))


@pytest.mark.parametrize("free_on_host", [2**40, 0])
def test_validation_halves_its_batch_when_memory_runs_out(free, free_on_host):
    free(free_on_host, 0)
    network, given = Picky(100), data()
    evaluate = training.validator(Model(network, "test", preprocess=PREPROCESS), given, CPU, "accuracy", "student")
    right = network.layer(given.val.exact(range(1000), PREPROCESS).flatten(1)).argmax(1) == given.val.labels
    assert evaluate(network)["accuracy"] == pytest.approx(right.float().mean().item())
    assert network.seen == 1000
