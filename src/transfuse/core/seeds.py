"""One seed -> named, independent random streams, so that no draw depends on how many draws came before it elsewhere."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that is a pure function of (seed, names)."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one named purpose, such as ("order", epoch)."""
    return torch.Generator().manual_seed(derive(seed, *names))


def seed_step(seed: int, *names: str | int) -> None:
    """Sets torch's default generators, from which dropout and its like draw.

    Called before every step with (seed, step, ...): a resumed run draws what the uninterrupted one would have drawn.
    """
    value = derive(seed, *names)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, random weights are a function of the seed alone; outside, torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initialisation"))
        yield
