"""Random weights that are a function of a seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from transfuse.core.seeds import derive


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, random weights are a function of the seed alone; outside, torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initialisation"))
        yield
