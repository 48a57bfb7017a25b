"""A small problem that every engine test can train on in milliseconds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from transfuse import objectives
from transfuse.core.types import WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order


def network(dropout: float = 0.0, batchnorm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(6, 16), nn.BatchNorm1d(16) if batchnorm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def weighted(name: str, weight: float = 1.0, teachers: tuple[str, ...] = (), **arguments) -> WeightedObjective:
    return WeightedObjective(name, objectives.get(name)(**arguments), objectives.card(name), lambda progress: weight, teachers)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(50, 6, generator=generator)
    labels = (inputs[:, :3] + 0.3 * torch.randn(50, 3, generator=generator)).argmax(1)
    labels[40:] = -1
    samples = ArraySamples(inputs, labels, np.arange(50))

    def loader(batch_size=16, seed=0, rank=0, world_size=1, views=1):
        return MemoryLoader(samples, BatchViews(views=views, seed=0), Order(50, batch_size, seed, rank, world_size))

    return SimpleNamespace(inputs=inputs, labels=labels, samples=samples, loader=loader)
